"""What identifies a patient is taken out, what a model needs stays."""

from __future__ import annotations

import subprocess
import sys
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinical.cleaning import clean
from clinical.identity import Identifier, IdentityData

ANNE = IdentityData(
    family="Müller-O'Brien",
    given="Anne Li",
    birth_date=date(1961, 3, 7),
    sex="F",
    identifiers=(Identifier("DEMOHOSP", "MRN-0012345"), Identifier("NATIONAL", "943 476 5919", "NI")),
)


def removed(text: str, identity: IdentityData = ANNE) -> list[str]:
    data = text.encode()
    return [data[start:end].decode() for start, end, _ in clean(text, identity).removed]


@pytest.mark.parametrize(
    "secret",
    [
        "Müller", "MÜLLER", "Mueller", "muller", "O'Brien", "O’Brien", "OBrien", "Müller-O’Brien", "Muller O'Brien",
        "M ü l l e r", "Mül-\nler", "Anne", "ANNE LI", "Li",
        "MRN-0012345", "mrn0012345", "0012345", "12345", "943 476 5919", "9434765919", "943-476-5919",
        "1961-03-07", "19610307", "07.03.1961", "7.3.1961", "7/3/61", "03/07/1961", "7 March 1961", "7th of March 1961",
        "March 7, 1961", "07-Mar-1961", "7. März 1961", "7 mars 1961", "1961 Mar 7",
    ],
)  # fmt: skip
def test_what_is_known_of_the_patient_goes(secret: str) -> None:
    text = f"We saw {secret} today, stable."
    cleaned = clean(text, ANNE)
    assert secret not in cleaned.text
    assert cleaned.text.split() == ["We", "saw", "today,", "stable."]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Name: Jane Roe", "Jane Roe"),
        ("Surname: van der Berg\tSex: F", "van der Berg"),
        ("Patient: Jane Roe, 54 years", "Jane Roe"),
        ("Patient's name: Jane Roe\nnext", "Jane Roe"),
        ("Next of kin: John Roe", "John Roe"),
        ("Mrs Roe came back.", "Roe"),
        ("DOB: 01/02/1950", "01/02/1950"),
        ("D.O.B. 1.2.50", "1.2.50"),
        ("Date of birth: 3 May 1949", "3 May 1949"),
        ("born on 12.12.1940", "12.12.1940"),
        ("geb. am 12.12.1940", "12.12.1940"),
        ("MRN: 88-77 66", "88-77 66"),
        ("Patient ID: AB99812", "AB99812"),
        ("NHS number 401 023 2137", "401 023 2137"),
        ("Tel: 020 7946 0123", "020 7946 0123"),
        ("call +44 20 7946 0999 please", "+44 20 7946 0999"),
        ("call (555) 123-4567", "(555) 123-4567"),
        ("mail jane.roe@mail.example.org", "jane.roe@mail.example.org"),
        ("Address: 12 High Street, London", "12 High Street, London"),
    ],
)
def test_what_announces_itself_goes(text: str, secret: str) -> None:
    assert secret in removed(text)
    assert secret not in clean(text, ANNE).text


@pytest.mark.parametrize(
    "text",
    [
        "Glioblastoma, IDH-wildtype, WHO grade 4, MGMT promoter methylated (23 %).",
        "Enhancing lesion 23 x 15 x 12 mm, volume 12.5 mL, on 2024-05-06; prior 8.1 mL on 03/07/2024.",
        "Temozolomide 150 mg/m2 for 5 days, cycle 3 of 6. Dexamethasone 4 mg twice daily.",
        "Radiotherapy 60 Gy in 30 fractions from 01.02.2023 to 15.03.2023.",
        "Patient: stable on treatment; the patient may limit steroids. KPS 80.",
        "He lied about nothing; an annealing step, mullerian remnant.",
        "EGFR amplification, +7/-10, TERT C228T, Ki-67 30-40 %.",
    ],
)
def test_what_a_model_needs_stays(text: str) -> None:
    assert removed(text) == []
    assert clean(text, ANNE).text == text


@given(st.text(max_size=300), st.sampled_from(["Müller", "12345", "DOB: 01.02.1950", "山", "é", ""]))
@settings(max_examples=150, deadline=None)
def test_offsets_stay_offsets(text: str, more: str) -> None:
    text = (text + " " + more + " " + text).encode("utf-8", "replace").decode()
    cleaned = clean(text, ANNE)
    before, after = text.encode(), cleaned.text.encode()
    assert len(before) == len(after)
    position = 0
    for start, end, reason in cleaned.removed:
        assert position <= start < end
        assert reason
        assert before[position:start] == after[position:start]
        assert not after[start:end].strip()
        before[start:end].decode()
        position = end
    assert before[position:] == after[position:]


def test_overlap_is_asked_of_spans() -> None:
    cleaned = clean("ab Müller cd Li.", ANNE)
    (first, second) = [(start, end) for start, end, _ in cleaned.removed]
    assert first == (3, 10)
    assert not cleaned.overlaps(0, 3)
    assert cleaned.overlaps(0, 4)
    assert cleaned.overlaps(9, 11)
    assert not cleaned.overlaps(10, second[0])
    assert cleaned.overlaps(0, 99)


def test_nobody_known_still_removes_what_announces_itself() -> None:
    assert removed("Name: Jane Roe", IdentityData()) == ["Jane Roe"]


def test_a_hostile_text_is_cleaned_in_reasonable_time() -> None:
    import time

    for text in ("Name: " * 20_000, "0" * 200_000, "Mr A A A A " * 20_000, "a@" * 100_000, "M ü l l " * 20_000):
        start = time.monotonic()
        clean(text, ANNE)
        assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "unit",
    [
        " ",
        "\t",
        "\n",
        "\n ",
        "1",
        "A ",
        "Aa, ",
        "name: ",
        "\nname:\t",
        "+1",
        "(12) ",
        "a.",
        "a@",
        "mrn ",
        "m ",
        "mü",
        "1.",
        "\u0301",
    ],
)
def test_a_text_of_any_make_is_cleaned_and_cut_in_the_time_of_its_length(unit: str) -> None:
    """In a process that may use 60 s of a processor: 400,000 characters take about one, their square took minutes."""
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
import django
django.setup()
from datetime import date
from clinical.cleaning import clean
from clinical.identity import Identifier, IdentityData
from clinical.retrieval.passages import windows
anne = IdentityData(family="Müller-O'Brien", given="Anne Li", birth_date=date(1961, 3, 7), sex="F",
                    identifiers=(Identifier("DEMOHOSP", "MRN-0012345"),))
text = "Stable" + {unit!r} * (400_000 // {len(unit)}) + "b. Anne was seen."
cleaned = clean(text, anne)
assert "Anne" not in cleaned.text and len(cleaned.text.encode()) == len(text.encode())
assert windows(cleaned.text.encode(), cleaned.removed)
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
