"""A report on a study with missing sequences: what it says, and what it must not say. And an adviser's remarks."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from reportlab.graphics.shapes import PolyLine

from imaging.schemas.comparison import VolumesAt
from reports.content.schema import ReportFacts
from reports.lifecycle.assemble import build_content
from reports.narrative.extractive import ExtractiveNarrator
from reports.narrative.findings_text import impression
from reports.narrative.sentences import check_sentences
from reports.pdf.chart import volume_chart
from tests.factories.report_content import read, rows
from tests.factories.reports import draw, words

WHY = "Without a FLAIR or T2 series the extent of the whole tumour cannot be told."
REASON = (
    "This study has no T1, no T2 and no FLAIR series. It is assessed from contrast-enhanced T1 alone and always held for "
    "review. Not assessed: WT."
)
NOTE = (
    "The two studies do not have the same sequences: this one contrast-enhanced T1, the earlier one T1, contrast-enhanced T1, "
    "T2 and FLAIR. A change may come from that alone."
)


def left_out(reason: str = WHY) -> dict[str, Any]:
    return {"volume_mm3": None, "voxels": None, "assessed": False, "reason": reason, "uncertainty_mm3": None}


def reduced_rows(**regions: Any) -> dict[str, Any]:
    """The sample's study with T1c alone, its earlier one whole."""
    made = deepcopy(rows())
    made["study"]["reduced"] = {"sequences": ["T1c"], "missing": ["T1", "T2", "FLAIR"], "reason": REASON}
    made["findings"]["regions"].update(regions or {"WT": left_out()})
    for lesion in made["findings"]["lesions"]:
        lesion["regions"]["WT"] = None
    made["comparison"]["regions"]["WT"] = {
        "current_mm3": None,
        "prior_mm3": 66900.0,
        "change_mm3": None,
        "change_percent": None,
        "reason": f"Not assessed on this study, so not compared. {WHY}",
    }
    made["comparison"]["sequences"] = {"current": ["T1c"], "prior": ["T1", "T1c", "T2", "FLAIR"], "note": NOTE}
    return made


def reduced(**regions: Any) -> ReportFacts:
    return read(reduced_rows(**regions))


def test_the_narrative_says_what_is_missing_and_gives_no_number_for_it() -> None:
    given = reduced()
    sentences = ExtractiveNarrator().narrate(given, [])
    check_sentences(sentences, given, [])
    text = "\n".join(one.text for one in sentences)
    assert REASON in text
    assert NOTE in text
    assert "The volume of the whole tumour (WT) was not assessed: Without a FLAIR or T2 series" in text
    assert "66.9" not in text
    assert impression(given).startswith(REASON)
    content = build_content(given, [], ExtractiveNarrator())
    said = {one.what: one.reason for one in content.not_assessed}
    assert said["WT volume"] == WHY
    assert said["WT change"].startswith("Not assessed on this study, so not compared.")


def test_the_impression_never_takes_not_assessed_for_none() -> None:
    nothing = {"volume_mm3": 0.0, "voxels": 0, "assessed": True, "reason": ""}
    some = {"volume_mm3": 900.0, "voxels": 900, "assessed": True, "reason": ""}
    flair = impression(reduced(ET=left_out(), TC=left_out(), WT=some))
    assert "whether it enhances was not assessed" in flair
    assert "No enhancing tumour" not in flair
    empty = impression(reduced(ET=nothing, TC=nothing, WT=left_out()))
    assert "No tumour core is outlined on this study; this does not exclude disease." in empty
    assert "No tumour is outlined" not in empty
    assert "Tumour core without enhancement" in impression(reduced(ET=nothing, TC=some, WT=left_out()))


def test_a_persons_outline_of_what_the_models_could_not_assess_is_said_to_be_that() -> None:
    given = reduced(
        WT={
            "volume_mm3": 64120.0,
            "voxels": 64120,
            "assessed": True,
            "reason": "",
            "basis": f"Outlined by a person; the models could not assess it. {WHY}",
        }
    )
    sentences = ExtractiveNarrator().narrate(given, [])
    check_sentences(sentences, given, [])
    assert any(one.text.startswith("Whole tumour (WT): Outlined by a person;") for one in sentences)


def test_the_pdf_says_it_on_top_and_names_what_did_not_run() -> None:
    given = reduced_rows()
    given["panel"]["experts"][2] |= {"state": "not_run", "error": "needs FLAIR"}
    given["panel"]["experts"][0]["sequences"] = ["T1c"]
    text = " ".join(words(draw(**given).pdf).split())
    assert "REDUCED – This study has no T1, no T2 and no FLAIR series." in text
    assert "not run:" in text  # the cell is narrow: its words stand on several lines
    assert "given" in text
    assert "not assessed" in text
    assert NOTE in text


def test_no_line_is_drawn_over_a_date_that_was_not_assessed() -> None:
    history = [
        VolumesAt(study_id="x", performed_at=datetime(2026, month, 1, 9, tzinfo=UTC), ET=5000.0, TC=6000.0, WT=whole)
        for month, whole in ((1, 9000.0), (2, 9500.0), (3, None), (4, 9900.0), (5, 9700.0))
    ]
    drawn = volume_chart(history, 400)
    assert drawn is not None
    lines = [one for one in drawn.contents if isinstance(one, PolyLine)]
    assert sorted(len(line.points) // 2 for line in lines) == [2, 2, 5, 5]


def test_an_advisers_remarks_are_printed_as_unreviewed() -> None:
    given = rows()
    assert "remarks" not in words(draw(**given).pdf)
    given["panel"]["experts"][1]["findings"] = [
        {"text": "Ring-enhancing mass <b>in</b> the right frontal lobe", "confidence": 0.625, "slice_z": 41}
    ]
    text = " ".join(words(draw(**given).pdf).split())
    assert "Unreviewed remarks of an adviser" in text
    assert (
        "nnunet-residual, unreviewed: Ring-enhancing mass <b>in</b> the right frontal lobe (slice 42, confidence 0.62)"
        in text
    )
    assert "No radiologist has reviewed them" in text
