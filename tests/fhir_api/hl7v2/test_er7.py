"""ER7 splitting, escapes and times."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_api.hl7v2.er7 import STANDARD, Delimiters, Er7Error, escape, parse, standard, unescape
from fhir_api.hl7v2.fields import timestamp
from fhir_api.r4.resources.naming_systems import authority_of, own, patient_system

PRINTABLE = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=("Cs", "Cc")))


@given(PRINTABLE)
def test_escaped_text_comes_back(text):
    assert unescape(escape(text), STANDARD) == text
    assert not set(escape(text)) & set("|^~&")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    for body in (data, b"MSH|^~\\&|" + data):
        with contextlib.suppress(Er7Error):
            assert parse(body).msh.name == "MSH"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
        (r"one\.br\two\.sp2\three", "one\ntwo\n\nthree"),
        (r"\H\bold\N\ \Z12\ \Q\ \X4142\ \X4\ \Xzz\ end\ ", r"bold \Z12\ \Q\ AB \X4\ \Xzz\ end\ "),
        ("no escapes", "no escapes"),
    ],
)
def test_escapes(text, plain):
    assert unescape(text, STANDARD) == plain


def test_hexadecimal_escapes_are_bytes_of_the_message():
    assert unescape(r"\XFC\ ", STANDARD, "iso8859-1") == "ü "


def test_other_delimiters_become_the_standard_ones():
    assert standard("A*B!C!D%F", Delimiters("#", "*", "!", "/", "%")) == "A^B~C~D&F"
    assert standard("A^B|", Delimiters("#", "*", "!", "/", "%")) == "A\\S\\B\\F\\"


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("20260301101500+0100", "2026-03-01T09:15:00+00:00"),
        ("20260301101500.1234-0530", "2026-03-01T15:45:00+00:00"),
        ("202603", "2026-03-01T00:00:00+00:00"),
        ("20261399", None),
        ("yesterday", None),
        ("", None),
        ("20260301101500+9999", None),
    ],
)
def test_timestamps(text, iso):
    moment = timestamp(text)
    assert (moment.isoformat() if moment else None) == iso


def test_too_many_segments_are_refused():
    with pytest.raises(Er7Error) as caught:
        parse(b"MSH|^~\\&|A|B\r" + b"NTE|\r" * 50_000)
    assert caught.value.condition == "104"


def test_identifier_systems_round_trip(settings):
    assert authority_of(patient_system("DEMOHOSP")) == ("DEMOHOSP", "MR")
    assert authority_of(patient_system("OTHER", "SS")) == ("OTHER", "SS")
    assert authority_of(settings.ONCOFLOW_IDENTIFIER_SYSTEM) == (settings.ONCOFLOW_ASSIGNING_AUTHORITY, "MR")
    assert authority_of("urn:oid:1.2.3") is None
    settings.ONCOFLOW_AUTHORITY_OIDS = {"1.2.3": "DEMOHOSP"}
    assert authority_of("urn:oid:1.2.3") == ("DEMOHOSP", "MR")
    assert authority_of(own("report")) is None
    assert authority_of(patient_system("A B/c", "X Y")) == ("A B/c", "X Y")
    assert " " not in patient_system("A B/c")
    assert authority_of("https://elsewhere.example/DEMOHOSP") is None
