"""Values that come in forms the standard has not foreseen, and what needs to stay of them."""

from __future__ import annotations

import os
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from imaging.deidentification.descriptors import clean_version_text, clean_words
from imaging.deidentification.engine import DeidentificationRefused, PatientProfile, deidentify
from imaging.deidentification.known_identity import KnownIdentity
from imaging.deidentification.profile import RULES
from imaging.deidentification.value_cleaning import clean_age, clean_code, shift_date, value_allowed
from imaging.dicom.elements import ElementWriter
from tests.factories.deidentification_files import PROFILE, run, with_elements
from tests.factories.dicom_files import as_file, dataset

DATA = Path(os.environ.get("ONCOFLOW_TEST_DATA", "/nonexistent")) / "dicom"
BRAVO = KnownIdentity.of(["Bravo^Vida^Maria"], ["B4711", "MRN-0081123", "19610423"])


def planted(keyword: str, vr: str, value: bytes, one: Dataset | None = None) -> Dataset:
    """The de-identified data set of one with this stored value."""
    tag = int(Tag(keyword))
    element = ElementWriter(implicit=False, little=True).element(tag, vr, value)
    return dcmread(BytesIO(deidentify(with_elements(one or dataset(), {tag: element}), PROFILE).data))


@pytest.mark.parametrize(
    ("keyword", "vr", "stored", "kept"),
    [
        ("ImageOrientationPatient", "DS", b"1\\-1e-016\\0\\1e-016\\1\\0", [1, -1e-16, 0, 1e-16, 1, 0]),
        ("RescaleSlope", "DS", b"5.000000e-001", 0.5),
        ("RescaleSlope", "DS", b"0.30000000000000000001 ", 0.3),
        ("MagneticFieldStrength", "DS", b"2.8936200141906738", 2.8936200141906738),
        ("RescaleIntercept", "DS", b"-8388608", -8388608),
        ("RescaleIntercept", "DS", b"-1.024E+03", -1024),
        ("PixelSpacing", "DS", b" .9765625000000000\\+0.9765625 ", [0.9765625, 0.9765625]),
        ("ImagingFrequency", "DS", b"128175953", 128175953),
        ("InstanceNumber", "IS", b"1000007", 1000007),
        ("InstanceNumber", "IS", b"7.0", 7),
        ("WindowCenter", "DS", b"40\\\\400", [40, "", 400]),
        ("EchoTime", "DS", b"2.5\0", 2.5),
    ],
)
def test_what_pydicom_reads_as_a_number_stays_that_number(keyword, vr, stored, kept):
    value = planted(keyword, vr, stored)[keyword].value
    assert (list(value) if isinstance(kept, list) else value) == kept


@pytest.mark.parametrize(
    ("keyword", "vr", "stored", "kept"),
    [
        ("StudyTime", "TM", b"09:30:15", "093015"),
        ("StudyTime", "TM", b"093015.1234567 ", "093015.123456"),
        ("StudyTime", "TM", b"0930", "0930"),
        ("StudyDate", "DA", b"2026-03-11", "20251108"),
        ("StudyDate", "DA", b"2026.03.11", "20251108"),
        ("StudyDate", "DA", b"2026/03/11", "20251108"),
        ("AcquisitionDateTime", "DT", b"2026-03-11T09:30:00+01:00", "20251108093000"),
        ("PatientAge", "AS", b"64Y", "064Y"),
        ("ReferencedSOPClassUID", "UI", b"1.2.840.10008.5.1.4.1.1.4 ", "1.2.840.10008.5.1.4.1.1.4"),
    ],
)
def test_times_dates_and_ages_are_written_as_the_standard_has_them(keyword, vr, stored, kept):
    assert planted(keyword, vr, stored)[keyword].value == kept


def test_a_uid_that_is_none_is_mapped_like_any_other():
    out = planted("FrameOfReferenceUID", "UI", b"1.2.03.0004 ")
    assert out.FrameOfReferenceUID == PROFILE.map_uid("1.2.03.0004")


@pytest.mark.parametrize("keyword", sorted(rule.keyword for rule in RULES.by_tag.values() if rule.needed))
def test_a_value_that_geometry_or_pixels_need_is_refused_by_name(keyword):
    tag = int(Tag(keyword))
    rule = RULES.by_tag[tag]
    vr = sorted(rule.vrs)[-1]
    wrong = {"DS": b"0,5\\0,5", "IS": b"two ", "CS": b"QUASTEN"}.get(vr, b"QUASTENF")
    element = ElementWriter(implicit=False, little=True).element(tag, vr, wrong)
    with pytest.raises(DeidentificationRefused, match=keyword) as caught:
        deidentify(with_elements(dataset(), {tag: element}), PROFILE)
    assert "QUASTEN" not in str(caught.value)


def test_a_modality_lut_is_refused_by_name():
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4, 0, 16], struct.pack("<4H", 0, 1, 2, 3)
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    item.ModalityLUTType = "US"
    with pytest.raises(DeidentificationRefused, match="ModalityLUTSequence"):
        run(dataset(ModalityLUTSequence=[item]))


def test_slices_of_one_value_stay_of_one_value():
    """RescaleSlope and pixels of five slices that all mean 200, as one maker writes them."""
    for slope in (b"1.000000e+000", b"5.000000e-001", b"2.000000e+000", b"2.500000e-001", b"1.250000e-001"):
        one = dataset()
        stored = round(200 / float(slope))
        one.PixelData = np.full((16, 16), stored, np.uint16).tobytes()
        out = planted("RescaleSlope", "DS", slope, one)
        assert np.all(np.frombuffer(out.PixelData, np.uint16) * float(out.RescaleSlope) == 200)


def real_files() -> list[Path]:
    return sorted(path for path in DATA.rglob("*") if path.is_file()) if DATA.is_dir() else []


def assert_needed_values_equal(original: Dataset, out: Dataset, path: str) -> None:
    """What geometry and pixels need is what it was, in every sequence that stays."""
    for element in original:
        if element.tag.is_private:
            continue
        if element.VR == "SQ" and element.tag in out and element.keyword != "DeidentificationMethodCodeSequence":
            for mine, theirs in zip(out[element.tag].value, element.value, strict=True):
                assert_needed_values_equal(theirs, mine, f"{path} {element.keyword}")
        elif element.tag in RULES.needed and element.value not in (None, ""):
            assert element.tag in out, f"{path} {element.keyword}"
            assert np.all(np.atleast_1d(out[element.tag].value) == np.atleast_1d(element.value)), (
                f"{path} {element.keyword}"
            )


def test_real_pixels_times_slope_are_the_originals():
    if not DATA.is_dir():
        pytest.skip("ONCOFLOW_TEST_DATA is not set")
    compared = 0
    for path in real_files():
        data = path.read_bytes()
        try:
            original = dcmread(BytesIO(data))
        except Exception:  # a text beside the images
            continue
        out = dcmread(BytesIO(deidentify(data, PROFILE).data))
        assert_needed_values_equal(original, out, str(path))
        left, right = (
            one.pixel_array * float(one.get("RescaleSlope", 1) or 1) + float(one.get("RescaleIntercept", 0) or 0)
            for one in (original, out)
        )
        assert np.array_equal(left, right), path
        compared += 1
    assert compared > 250


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Laterality", "L"), ("Laterality", "R"), ("ImageLaterality", "L"), ("ImageLaterality", "B"), ("FrameLaterality", "L"),
        ("PatientOrientation", "L\\P"), ("PatientOrientation", "R\\FA"), ("LossyImageCompression", "01"),
        ("LossyImageCompressionMethod", "ISO_10918_1"), ("RotationDirection", "CW"), ("ASLContext", "LABEL"),
        ("AcquisitionContrast", "FLUID_ATTENUATED"), ("VolumeBasedCalculationTechnique", "MAX_IP"), ("PatientPosition", "HFS"),
        ("RespiratorySignalSource", "CO2_SENSOR"), ("KSpaceFiltering", "LRNTZ_GSS_TRNSFM"), ("OperatingModeType", "STATIC FIELD"),
        ("PhotometricInterpretation", "MONOCHROME1"), ("ResonantNucleus", "1H"), ("ContrastBolusIngredient", "GADOLINIUM"),
    ],
)  # fmt: skip
def test_the_standards_own_terms_stay(keyword, value):
    out = planted(keyword, "CS", value.encode())
    assert "\\".join(np.atleast_1d(out[keyword].value).tolist()) == value


def test_every_defined_term_of_ours_stays_under_its_attribute():
    for rule in RULES.by_tag.values():
        for term in rule.terms if rule.action == "K" and "CS" in rule.vrs else ():
            assert value_allowed(rule, "CS", term.encode(), True) == term.encode(), (rule.keyword, term)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Glioblastoma left frontal, s/p resection", "Glioblastoma left frontal, s/p resection"),
        ("brain metastasis, motion artifact", "brain metastasis, motion artifact"),
        ("t1_mprage_sag_p2_iso", "t1_mprage_sag_p2_iso"), ("*tfl3d1_16ns", "*tfl3d1_16ns"), ("Prisma_fit", "Prisma_fit"),
        ("CANON_MEC", "CANON_MEC"), ("AX T1 BRAVO", "AX T1 BRAVO"), ("MAGNETOM Vida", "MAGNETOM Vida"),
        ("T1 per Vida Bravo", "T1"), ("FLAIR, Dr. Sharp", "FLAIR"), ("seen by Frau Blume, stable", "seen stable"),
        ("tel 415 555 1234 head", "head"), ("head 14.03.1977", "head"), ("head 1977-03-14", "head"), ("MRN 4711882 head", "head"),
        ("MRI brain of Quastenflosser", "MRI brain"),
    ],
)  # fmt: skip
def test_descriptors_keep_medicine_and_lose_persons(text, kept):
    assert clean_words(text) == kept


@pytest.mark.parametrize(
    "text", ["B4711", "B-4711", "b 4711", "MRN0081123", "81123", "0081123", "Vida", "Bravo", "maria", "19610423"]
)
def test_what_is_known_of_the_patient_is_compared_with_every_word(text):
    kept = clean_words(f"T1 {text} head b1000", BRAVO)
    assert kept.split() == ["T1", "head", "b1000"]
    assert text not in clean_version_text(f"syngo MR {text}", BRAVO).split()


def test_persons_of_other_fields_and_sequences_are_known_too():
    nested = Dataset()
    nested.ScheduledPerformingPhysicianName = "Sola^Altea"
    other = Dataset()
    other.PatientID = "B4712"
    out = run(
        dataset(
            PatientID="B4711",
            OperatorsName="Trio^Pioneer",
            RequestAttributesSequence=[nested],
            OtherPatientIDsSequence=[other],
            StudyDescription="head Sola b4711 b1000",
            SeriesDescription="Pioneer t1 b4712",
            ImageComments="glioblastoma of the left frontal lobe, Altea; Trio 4711 no motion. " * 4,
        )
    )[1]
    assert out.StudyDescription == "head b1000"
    assert out.SeriesDescription == "t1"
    assert out.ImageComments.startswith("glioblastoma of the left frontal lobe")
    assert len(out.ImageComments) > 64
    assert not {"altea", "trio", "4711"} & set(out.ImageComments.lower().replace(";", " ").split())


def test_a_number_that_is_the_patients_goes_from_numeric_attributes_and_geometry_stays():
    out = run(
        dataset(
            PatientID="4711882", EchoTrainLength="4711882", SeriesNumber="4711882", ImagePositionPatient=[4711882, 0, 0]
        )
    )[1]
    assert "EchoTrainLength" not in out
    assert "SeriesNumber" not in out
    assert out.ImagePositionPatient[0] == 4711882


@pytest.mark.parametrize(
    ("version", "kept"),
    [
        ("syngo MR E11 4155551234", "syngo MR E11"), ("SN653213", ""), ("1977-03-14", ""), ("MRN4711882", ""), ("MRN 4711", ""),
        ("415-555-1234", ""), ("415 555 1234", ""), ("14.03.1977", ""), ("123-45-6789", ""), ("S/N 653213", ""),
        ("V415.555.1234", ""),
        ("syngo MR VE11C", "syngo MR VE11C"), ("24\\LX\\MR Software release:DV26.0_R03_1831.b", "24"), ("5.3.0.0", "5.3.0.0"),
        ("V2.30*R006*SP0002", "V2.30*R006*SP0002"),
        ("MR Software release:DV26.0_R03_1831.b", "MR Software release:DV26.0_R03_1831.b"),
        ("N4_VE11C_LATEST_20160120", "N4_VE11C_LATEST"), ("Hildegund", ""),
    ],
)  # fmt: skip
def test_versions_stay_and_numbers_of_persons_go(version, kept):
    assert clean_version_text(version.split("\\")[0]) == kept


def test_codes_of_loinc_stay_where_their_check_digit_is_right():
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "24587-8", "LN", "MR Brain WO and W contrast IV"
    out = run(dataset(ProcedureCodeSequence=[item]))[1]
    code = out.ProcedureCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == (
        "24587-8",
        "LN",
        "MR Brain WO and W contrast IV",
    )
    assert clean_code("LN", b"24587-7") is None
    assert clean_code("99LOCAL", b"4711882") is None


def test_dates_and_ages_that_are_none_are_empty():
    assert shift_date(b"QUASTEN", -1) == shift_date(b"2026", -1) == b""
    assert clean_age(b"Anna") == b""


def test_a_profile_says_who_the_patient_is():
    profile = PatientProfile("OF-TEST-0000-00", -1, PROFILE.map_uid, KnownIdentity.of(["Skyra^Verio"], ["B4799"]))
    one = dataset(StudyDescription="Skyra head b4799 b800")
    out = dcmread(BytesIO(deidentify(as_file(one), profile).data))
    assert out.StudyDescription == "head b800"
