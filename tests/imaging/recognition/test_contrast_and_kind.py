"""What headers say of contrast agent and of the kind of image, alone and beside the other series of the study."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydicom.dataset import Dataset

from imaging.dicom.acquisition import AcquisitionParameters, acquisition_parameters, from_json, to_json
from imaging.dicom.contrast_agent import contrast_words
from imaging.dicom.image_kind import kind_in_words
from imaging.recognition.rules import recognise, recognise_facts
from imaging.recognition.study_context import recognise_together
from tests.factories.dicom_files import SEQUENCES

DAY = {"AcquisitionDate": "20260311"}


def header(sequence: str = "T1", **values: Any) -> Dataset:
    one = Dataset()
    one.Modality = "MR"
    one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    for keyword, value in (
        {**SEQUENCES[sequence], "SeriesDescription": "t1 ax"} if sequence == "T1" else SEQUENCES[sequence]
    ).items():
        setattr(one, keyword, value)
    for keyword, value in values.items():
        if value is not None:
            setattr(one, keyword, value)
        elif keyword in one:
            delattr(one, keyword)
    return one


def item(**values: Any) -> Dataset:
    one = Dataset()
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return one


def facts(sequence: str = "T1", **values: Any) -> AcquisitionParameters:
    return acquisition_parameters(header(sequence, **values))


_BEFORE = (
    "T1 sin contraste|T1 SANS GADO|t1 ss inj|T1 senza mdc|T1 sem contraste|T1 zonder contrast|T1 utan kontrast|T1 ohne KM|"
    "T1 nativ|t1_native|T1 w/o|T1 WO CONTRAST|T1 non-contrast|T1 PRE|T1 precontrast|T1 avant injection|T1 vor KM|"
    "T1 bez kontrastu|T1 UNENHANCED|T1 造影なし|T1 平扫|T1 조영전|T1 без контраста|T1 AX -C|T1 C-|T1 kontrastsız|AX T1 plain|"
    "T1 S/C|T1 non enhanced|T1 before contrast|T1 antes de contraste|T1 prima del contrasto|T1_no_gd|T1 uden kontrast|"
    "T1 pré-contraste|T1 sans injection de produit de contraste|T1 not given contrast|T1 NONCONTRAST"
)
BEFORE = _BEFORE.split("|")
_AFTER = (
    "T1 con contraste|T1 POST|T1 +C|t1_tra_KM|T1 con mdc|T1 avec gado|T1 mit KM|T1 C+|T1C|T1CE|T1 com contraste|"
    "T1 med kontrast|T1 z kontrastem|T1 造影|T1 增强|T1 с контрастом|T1 postcontrast|T1 après injection|T1 W/CONTRAST|"
    "T1 contrast enhanced|T1-Gd|T1 + Gd|T1 kontrastlı|T1 조영후|T1 after contrast"
)
AFTER = _AFTER.split("|")
_NEITHER = (
    "T1 mprage|BRAIN W AND WO CONTRAST|T1 post op|T1 postop|T1 pre-op|MRI W/WO|mit und ohne KM|con y sin contraste|"
    "avec et sans injection|T1 pre surgery|T1 post RT|brain with and without"
)
NEITHER = _NEITHER.split("|")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((t, (False, True)) for t in BEFORE),
        *((t, (True, False)) for t in AFTER),
        *((t, (False, False)) for t in NEITHER),
    ],
)
def test_words_about_contrast_and_their_negations(text, expected):
    words = contrast_words(text)
    assert (words.given, words.denied) == expected


@pytest.mark.parametrize(
    "values",
    [
        *({"ContrastBolusAgent": text} for text in (
            "NO CONTRAST", "-", "UNENHANCED", "0 ml", "NONE", "0", "N/A", "kein KM", "SIN CONTRASTE", "Aucun", "なし", "無",
            "Non iniettato: senza mdc", "NOT GIVEN", "0.0", "unknown", "XXX",
        )),
        {"ContrastBolusVolume": "0"},
        {"ContrastBolusIngredient": "NONE"},
        {"ContrastBolusAgentSequence": []},
        {"ContrastBolusAgentSequence": [item(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning="No contrast")]},
    ],
)  # fmt: skip
def test_a_header_that_denies_contrast_or_is_silent_is_no_contrast(values):
    found = recognise(header(**values))
    assert found.sequence == "T1", found.reason
    assert not found.question


@pytest.mark.parametrize(
    "values",
    [
        {"ContrastBolusVolume": "15", "ContrastBolusRoute": "IV", "ContrastBolusIngredient": "GADOLINIUM"},
        {"ContrastBolusAgent": "", "ContrastBolusVolume": "15"},
        {"ContrastBolusAgent": "-", "ContrastBolusIngredient": "GADOLINIUM"},
        {"ContrastBolusTotalDose": "7.5"},
        {"ContrastBolusAgent": "7.5 ml Gadovist"},
        {"ContrastBolusAgent": "YES"},
        {"ContrastBolusAgentSequence": [item(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning="Gadobutrol")]},
        {"ContrastBolusAgentSequence": [item(CodeValue="1", CodeMeaning="?", ContrastBolusVolume="9")]},
    ],
)
def test_any_element_of_the_module_can_say_that_contrast_was_given(values):
    found = recognise(header(**values))
    assert found.sequence == "T1c", found.reason
    assert found.confidence >= 0.9


@pytest.mark.parametrize(
    "values",
    [
        {"ContrastBolusAgent": "Gadovist", "SeriesDescription": "t1 sin contraste"},
        {"ContrastBolusAgent": "NONE", "SeriesDescription": "t1 post gad"},
        {"ContrastBolusAgent": "Gadovist", "ContrastBolusVolume": "0"},
        {"ContrastBolusAgent": "Gadovist 0 ml"},
        {"ContrastBolusAgent": "NO CONTRAST", "ContrastBolusVolume": "15"},
        {"ContrastBolusRoute": "INTRAVENOUS"},
        {"ContrastBolusAgent": "as ordered"},
        {"ContrastBolusAgent": "Gadovist", "ContrastBolusStartTime": "101500", "AcquisitionTime": "100000", **DAY},
        {"SeriesDescription": "t1-c ax"},
    ],
)
def test_a_contradiction_or_a_hint_is_a_question_to_a_person(values):
    found = recognise(header(**values))
    assert (found.sequence, found.confidence) == ("unknown", 0.4)
    assert found.question


def test_the_frames_of_an_enhanced_object_say_whether_agent_was_administered():
    for answer, expected in (("YES", "T1c"), ("NO", "T1")):
        frame = item(
            ContrastBolusUsageSequence=[item(ContrastBolusAgentNumber=1, ContrastBolusAgentAdministered=answer)]
        )
        assert recognise(header(PerFrameFunctionalGroupsSequence=[frame])).sequence == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("FAT", "other"), ("FAT_FRACTION", "other"), ("WATER_FRACTION", "other"), ("OUT_OF_PHASE", "other"), ("OPP_PHASE", "other"),
        ("IN_PHASE", "T1"), ("WATER", "T1"), ("W", "T1"), ("SUBTRACTION", "other"), ("SUB", "other"), ("MIP", "other"),
        ("MAX_IP", "other"), ("MPR", "other"), ("CSA MPR", "other"), ("PHASE", "other"), ("P", "other"), ("PHASE MAP", "other"),
        ("REAL", "other"), ("IMAGINARY", "other"), ("MAGNITUDE", "T1"), ("M", "T1"), ("SYNTHETIC", "other"), ("DIXON", "T1"),
        ("ADC", "other"),
    ],
)  # fmt: skip
def test_image_type_and_frame_type_tell_the_kind(value, expected):
    kind = ["ORIGINAL", "PRIMARY", "DIXON", value]
    assert recognise(header(ImageType=kind)).sequence == expected
    frame = item(MRImageFrameTypeSequence=[item(FrameType=kind)])
    for group in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        found = recognise(header(ImageType=["ORIGINAL", "PRIMARY", "T1", "MIXED"], **{group: [frame]}))
        assert found.sequence == expected, found.reason


def test_frames_of_several_kinds_are_no_single_volume():
    frames = [
        item(MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "DIXON", k])]) for k in ("WATER", "FAT")
    ]
    found = recognise(header(PerFrameFunctionalGroupsSequence=frames))
    assert (found.sequence, "several kinds" in found.reason) == ("other", True)


@pytest.mark.parametrize(
    "description",
    ["SUB T1 MPRAGE", "T1 Subtracted", "FAT: Ax T1 LAVA", "OutPhase: Ax T1", "t1_vibe_dixon_tra_F", "T1 synthetic", "T1 SyMRI",
     "t1_mprage_sag_MPR Cor", "T1 phase map", "t1 reformatted"],
)  # fmt: skip
def test_descriptions_name_what_is_made_of_other_images(description):
    assert recognise(header(SeriesDescription=description, ContrastBolusAgent="Gadovist")).sequence == "other"


@pytest.mark.parametrize(
    "description", ["t1_mpr_sag_nativ", "WATER: Ax T1", "InPhase: Ax T1", "sub-01 T1", "T1 in phase"]
)
def test_descriptions_of_acquired_images_stay(description):
    assert not kind_in_words(description)


def test_a_legacy_converted_object_keeps_its_times_under_the_unassigned_attributes():
    one = header(
        RepetitionTime=None,
        EchoTime=None,
        InversionTime=None,
        FlipAngle=None,
        ScanningSequence=None,
        SeriesDescription="s",
    )
    values = SEQUENCES["FLAIR"]
    shared = {k: values[k] for k in ("ScanningSequence", "RepetitionTime", "EchoTime", "FlipAngle")}
    one.SharedFunctionalGroupsSequence = [item(UnassignedSharedConvertedAttributesSequence=[item(**shared)])]
    one.PerFrameFunctionalGroupsSequence = [
        item(UnassignedPerFrameConvertedAttributesSequence=[item(InversionTime=values["InversionTime"])])
    ]
    assert recognise(one).sequence == "FLAIR"
    del one.SharedFunctionalGroupsSequence
    assert recognise(one).sequence == "unknown"


@pytest.mark.parametrize("manufacturer", ["GE MEDICAL SYSTEMS", "Acme"])
@pytest.mark.parametrize(
    "protocol",
    ["BRAIN TUMOR W PERFUSION", "BRAIN W AND WO CONTRAST", "BRAIN WITH CONTRAST", "MR BRAIN WITHOUT CONTRAST"],
)
def test_the_name_of_the_examination_says_nothing_about_a_series(protocol, manufacturer):
    described = (
        ("T1", "Ax T1", None),
        ("T1c", "Ax T1 +C", "Gadovist"),
        ("T2", "Ax T2", None),
        ("FLAIR", "Ax FLAIR", None),
    )
    for prefix in ("", f"{protocol} "):
        study = [
            facts(
                name,
                ProtocolName=protocol,
                Manufacturer=manufacturer,
                SeriesDescription=prefix + text,
                ContrastBolusAgent=agent,
            )
            for name, text, agent in described
        ]
        assert [one.sequence for one in recognise_together(study)] == ["T1", "T1c", "T2", "FLAIR"]
    pair = [
        facts("T1", ProtocolName=protocol, Manufacturer=manufacturer, SeriesDescription=text, ContrastBolusAgent=None)
        for text in ("Ax T1", "Ax T1 +C")
    ]
    assert [one.sequence for one in recognise_together(pair)] == ["T1", "T1c"]


def test_words_that_all_series_share_and_no_number_contradicts_are_believed():
    tof = {"ScanningSequence": "GR", "RepetitionTime": 21, "EchoTime": 3.4, "InversionTime": None, "FlipAngle": 18}
    study = [facts(**tof, SeriesDescription=f"TOF 3D slab {part}") for part in ("a", "b")]
    assert {one.sequence for one in recognise_together(study)} == {"other"}


def test_what_is_acquired_after_contrast_is_not_before_it():
    after = facts("T1", AcquisitionTime="101000", **DAY)
    given = facts("T1c", AcquisitionTime="100000", **DAY)
    first, second = recognise_together([after, given])
    assert (first.sequence, bool(first.question), second.sequence) == ("unknown", True, "T1c")
    before = facts("T1", AcquisitionTime="095000", **DAY)
    assert [one.sequence for one in recognise_together([before, given])] == ["T1", "T1c"]


def test_two_like_series_that_nothing_tells_apart_are_asked_about():
    same = [facts("T1", SeriesDescription=text) for text in ("t1 a", "t1 b")]
    answers = recognise_together([*same, facts("T2")])
    assert [bool(one.question) for one in answers] == [True, True, False]
    assert answers[0].confidence <= 0.5
    agents = [
        facts(name, SeriesDescription=f"{name} ax", ContrastBolusAgent="Gadovist")
        for name in ("T1", "T1", "T2", "FLAIR")
    ]
    assert [bool(one.question) for one in recognise_together(agents)] == [True, True, False, False]


def test_facts_are_kept_and_read_again():
    one = facts("T1c", AcquisitionTime="100000", ProtocolName="x", **DAY)
    assert from_json(json.loads(json.dumps(to_json(one)))) == one
    assert recognise_facts(from_json(json.loads(json.dumps(to_json(one))))) == recognise_facts(one)
