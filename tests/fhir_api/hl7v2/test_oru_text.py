"""Long text in an ORU: wrapped to what hl7apy's tables allow, with its escapes counted."""

from __future__ import annotations

from fhir_api.hl7v2.oru import _lines


def test_long_lines_become_repetitions_of_at_most_199_characters() -> None:
    text = "A long sentence about findings & their | delimiters. " * 20 + "\n\nShort."
    parts = _lines(text).split("~")
    assert len(parts) > 5
    assert max(map(len, parts)) <= 199
    assert parts[-1] == "Short."
    assert "\\T\\" in parts[0]


def test_a_word_of_delimiters_only() -> None:
    assert max(map(len, _lines("|" * 500).split("~"))) <= 199
