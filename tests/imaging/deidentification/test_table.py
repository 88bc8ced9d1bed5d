"""PS3.15 Table E.1-1: every row meets the action that the table asks under the options we declare."""

from __future__ import annotations

from collections import Counter
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag

from imaging.deidentification.engine import PatientProfile, deidentify
from imaging.deidentification.profile import RULES
from imaging.deidentification.table_e1_1 import EDITION, REPEATING, TABLE, Row, resolve
from imaging.dicom.elements import ElementWriter
from tests.factories.deidentification_files import with_elements
from tests.factories.dicom_files import dataset

PROFILE = PatientProfile("OF-TEST-0000-00", -10, lambda uid: uid if uid.startswith("1.2.840.10008.") else "2.25.4711")
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
VALUES = {
    "AE": b"QUASTE", "AS": b"064Y", "AT": b"\x10\x00\x10\x00", "CS": b"QUASTE", "DA": b"20260311", "DS": b"1.5",
    "DT": b"20260311093000.5+0100", "FD": b"QUASTENF", "FL": b"QUAS", "IS": b"12", "LO": b"t2 Quastenflosser ",
    "LT": b"t2 Quastenflosser ", "OB": b"QUASTE", "OW": b"QUASTE", "PN": b"Quastenflosser^H", "SH": b"t2 Quaste ",
    "SL": b"QUAS", "SS": b"QU", "ST": b"t2 Quastenflosser ", "TM": b"093000", "UC": b"t2 Quastenflosser ", "UI": b"1.2.3.4711",
    "UL": b"QUAS", "UN": b"QUASTE", "UR": b"http://quaste ", "US": b"\x01\x00", "UT": b"t2 Quastenflosser ",
}  # fmt: skip
TERMS = {"PatientSex": b"F ", "PatientSexNeutered": b"UNALTERED ", "SmokingStatus": b"NO"}
# The instance's own UID is looked at in test_engine; group 0 to 6 stand in no data set.
ROWS = [row for row in TABLE if row.number is not None and row.number >= 0x00080000 and row.keyword != "SOPInstanceUID"]


def planted(row: Row, *, sop_class: str | None = None):
    """The attribute of ``row`` with an identifying value of its VR: before, and what came out (None: removed)."""
    assert row.number is not None
    writer = ElementWriter(implicit=False, little=True)
    vr = dictionary_VR(row.number).split(" or ")[0] if dictionary_has_tag(row.number) else "LO"
    value = TERMS.get(row.keyword) or VALUES.get(vr)
    if vr == "SQ":
        inner = writer.element(0x00081155, "UI", b"1.2.3.4711") + writer.element(0x00400007, "LO", VALUES["LO"])
        value = writer.item(inner)
    assert value is not None, vr
    one = dataset(SOPClassUID=sop_class) if sop_class else dataset()
    result = deidentify(with_elements(one, {row.number: writer.element(row.number, vr, value)}), PROFILE)
    assert b"uast" not in result.data, row
    assert b"QUAS" not in result.data, row
    out = dcmread(BytesIO(result.data))
    return vr, value, out.get(row.number)


def test_the_table_is_whole():
    """657 rows: the counts of each action are those of the edition, so that a lost line is seen."""
    assert EDITION.endswith("2026d")
    assert len(TABLE) == len({row.tag for row in TABLE}) == 657
    assert Counter(row.basic for row in TABLE) == {
        "X": 417, "D": 93, "U": 55, "Z": 42, "X/D": 23, "X/Z": 11, "X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2,
    }  # fmt: skip
    options = Counter((code, action) for row in TABLE for code, action in row.options.items())
    assert options == {
        ("113106", "K"): 169, ("113107", "C"): 169, ("113105", "C"): 141, ("113110", "K"): 60, ("113109", "K"): 48,
        ("113109", "C"): 11, ("113108", "K"): 14, ("113108", "C"): 5, ("113112", "K"): 10, ("113104", "C"): 4,
        ("113103", "C"): 4, ("113111", "C"): 1,
    }  # fmt: skip
    for row in TABLE:
        if row.number is not None and dictionary_has_tag(row.number):
            assert keyword_for_tag(row.number) == row.keyword


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.keyword)
def test_every_attribute_gets_the_action_of_the_table(row):
    vr, before, after = planted(row)
    action, _ = resolve(row, RULES.options)
    allowed: bool
    if row.keyword in ("PatientName", "PatientID"):
        allowed = str(after.value) == PROFILE.pseudonym
    elif not dictionary_has_tag(row.number) or row.keyword == "TimezoneOffsetFromUTC":
        allowed = after is None  # stricter than C or K
    elif action == "X":
        allowed = after is None
    elif action == "Z":
        allowed = after is not None and not after.value
    elif action == "D":
        allowed = (after is None) if vr in ("SQ", "OB", "UN") else bool(after is not None and after.value)
    elif action == "U":
        uids = after.value[0].ReferencedSOPInstanceUID if vr == "SQ" else after.value
        allowed = uids == "2.25.4711"
    elif vr in ("DA", "DT"):
        allowed = after.value == {"DA": "20260301", "DT": "20260301093000.5"}[vr]
    elif vr == "TM":
        allowed = after.value == "093000"
    elif vr == "SQ":
        allowed = len(after.value) == 1 and "uast" not in str(after)
    elif action == "C" or vr in ("SH", "LO"):
        text = {"LO", "LT", "SH", "ST", "UC", "UT"}
        allowed = after.value == "t2" if vr in text else (after is None or not after.value or row.basic == "D")
    else:
        assert action == "K"
        allowed = after is not None and after.value not in (None, "")
    assert allowed, (row, vr, before, after)


@pytest.mark.parametrize(
    ("keyword", "sop_class", "action"),
    [
        ("DeviceSerialNumber", None, "X"), ("DeviceSerialNumber", ENHANCED, "D"),
        ("AcquisitionContextSequence", None, "X"), ("AcquisitionContextSequence", ENHANCED, "Z"),
    ],
)  # fmt: skip
def test_a_compound_action_follows_the_type_in_the_iod(keyword, sop_class, action):
    row = next(row for row in TABLE if row.keyword == keyword)
    _, _, after = planted(row, sop_class=sop_class)
    assert ("X" if after is None else "D" if after.value else "Z") == action


@pytest.mark.parametrize(
    ("attribute_type", "expected"),
    [("1", ("D", "D", "Z")), ("1C", ("D", "D", "Z")), ("2", ("Z", "D", "Z")), ("3", ("X", "X", "X"))],
)
def test_compound_actions(attribute_type, expected):
    """Table E.1-1a: X unless Z or D is required; where the wanted one is not offered, what keeps the IOD whole."""
    rows = [Row("00080050", "", basic, {}) for basic in ("X/Z/D", "X/D", "X/Z")]
    assert tuple(resolve(row, (), attribute_type)[0] for row in rows) == expected


def test_repeating_groups_and_groups_that_no_data_set_has():
    """Curves, overlays (PS3.5 section 7.6) and elements of group 2 in the data set: removed, whatever they hold."""
    writer = ElementWriter(implicit=False, little=True)
    for row in TABLE:
        if row.tag in REPEATING:
            mask, value = REPEATING[row.tag]
            tags = [value | number << 17 | (0x2500 if mask == 0xFF000000 else 0) for number in (0, 1, 15)]
            elements = {tag: writer.element(tag, "OW", b"QUASTENFLOSSER") for tag in tags}
            assert b"QUASTE" not in deidentify(with_elements(dataset(), elements), PROFILE).data
    for tag in (0x00020016, 0x00020102, 0x00041500):
        elements = {tag: writer.element(tag, "AE", b"QUASTENFLOSSER")}
        assert b"QUASTE" not in deidentify(with_elements(dataset(), elements), PROFILE).data


def test_every_private_attribute_is_answered_for():
    assert next(row for row in TABLE if row.tag == "PRIVATE").options == {"113111": "C"}
    assert all(len(key) == 3 and key[1] % 2 for key in RULES.private)
