"""What is right after de-identification, attribute by attribute: ours, dicognito and deid on the same files.

Files are built here, with planted persons, numbers, dates and UIDs, and with what research needs beside them. Every planted
or needed value has one required action of PS3.15 (Basic Profile with the options that we declare):

=======  ==============================================================================================================
remove   absent, empty or a dummy: nothing of the planted identity is left in it
replace  there, not empty, not what it was, the same in all files of the patient
clean    nothing of the identity is left and every planted word of medicine or technique is
map      another UID; the same for the same UID in every file and place
shift    another date, by the same number of days in all files of the patient; the time of day unchanged
keep     what it was (numbers by their value, however they are written)
=======  ==============================================================================================================

``score_percent`` is the share of all actions done right, ``kept_percent`` that of keep and of the words of clean,
``identity_percent`` that of the rest. ``ratio_dicognito`` and ``ratio_deid`` are wrong actions of theirs by ours (at least
one). Names are taken from word lists of the field as well: a patient may be called Vida Bravo. Nothing here was looked at when the
vocabulary was made but for its kinds. dicom-anonymizer is scored too where a Python that has it is named.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oncoflow_site.settings")
django.setup()
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

from pydicom import dcmread  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.tag import Tag  # noqa: E402

from imaging.deidentification.engine import Deidentifier, PatientProfile  # noqa: E402
from imaging.deidentification.known_identity import KnownIdentity  # noqa: E402
from imaging.identifiers import STANDARD_ROOT  # noqa: E402
from tests.benchmarks.deidscore_files import Case, Person, build, person_of  # noqa: E402

# --- the tools ------------------------------------------------------------------------------------

Tool = Callable[[list[Case]], list[bytes | None]]


def ours(cases: list[Case]) -> list[bytes | None]:
    """One `Deidentifier` a patient, who is known to the service as to a registry."""

    def map_uid(uid: str) -> str:
        return uid if uid.startswith(STANDARD_ROOT) else f"2.25.{zlib.crc32(uid.encode())}"

    out: list[bytes | None] = []
    for case in cases:
        person = case.person
        known = KnownIdentity.of([person.family, person.given], [person.number, person.birth, person.accession])
        run = Deidentifier(PatientProfile(f"OF-{zlib.crc32(person.number.encode())}", -100, map_uid, known))
        out.append(run(case.data).data)
    return out


def dicognito(cases: list[Case]) -> list[bytes | None]:
    """Its anonymizer with one seed."""
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer(seed="bench")
    out: list[bytes | None] = []
    for case in cases:
        one = dcmread(BytesIO(case.data))
        anonymizer.anonymize(one)
        buffer = BytesIO()
        one.save_as(buffer)
        out.append(buffer.getvalue())
    return out


def _in_folder(cases: list[Case], act: Callable[[Path, Path], None]) -> list[bytes | None]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        target.mkdir()
        for index, case in enumerate(cases):
            (source / f"{index:03d}.dcm").write_bytes(case.data)
        act(source, target)
        return [path.read_bytes() if (path := target / f"{i:03d}.dcm").is_file() else None for i in range(len(cases))]


def deid(cases: list[Case]) -> list[bytes | None]:
    """The default recipe."""
    from deid.config import DeidRecipe
    from deid.dicom import get_identifiers, replace_identifiers

    def act(source: Path, target: Path) -> None:
        paths = [str(path) for path in sorted(source.iterdir())]
        ids = get_identifiers(paths)
        done = replace_identifiers(dicom_files=paths, deid=DeidRecipe(), ids=ids, save=False)
        for path, one in zip(paths, done, strict=True):
            one.save_as(target / Path(path).name)

    return _in_folder(cases, act)


def dicom_anonymizer(python: str) -> Tool:
    """dicom-anonymizer's own command, in the Python that has it."""

    def act(source: Path, target: Path) -> None:
        command = [python, "-m", "dicomanonymizer.anonymizer", str(source), str(target)]
        subprocess.run(command, check=True, capture_output=True)

    return lambda cases: _in_folder(cases, act)


# --- the score ------------------------------------------------------------------------------------


def _at(one: Dataset, path: tuple[Any, ...]) -> Any:
    """The value at a path, None where it is not there or empty."""
    place: Any = one
    for step in path:
        if isinstance(step, int) and not isinstance(step, type(Tag(0))):
            if len(place) <= step:
                return None
            place = place[step]
        else:
            if not isinstance(place, Dataset) or step not in place:
                return None
            place = place[step].value
    return None if place is None or place == "" else place


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return (
        "\\".join(map(str, value))
        if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"
        else str(value)
    )


def _holds(value: Any, secrets: list[str]) -> bool:
    text = _text(value).lower()
    return any(secret.lower() in text for secret in secrets if len(secret) > 2)


def _same(value: Any, stored: str) -> bool:
    if value is None:
        return False
    mine, theirs = _text(value).split("\\"), str(_text(stored)).split("\\")
    try:
        return [float(part) for part in mine] == [float(part) for part in theirs]
    except ValueError:
        return mine == theirs


def _days(old: str, new: str) -> int | None:
    try:
        gap = datetime.strptime(new[:8], "%Y%m%d") - datetime.strptime(old[:8], "%Y%m%d")
    except ValueError:
        return None
    return gap.days if new[8:].rstrip("0") == old[8:].rstrip("0") else None


def judge(cases: list[Case], outputs: list[bytes | None]) -> Iterator[tuple[str, bool, Case, tuple[Any, ...], Any]]:
    """(what, right?, case, path, what is there) for every required action; "words" are the words of clean."""
    parsed = [dcmread(BytesIO(data), force=True) if data else Dataset() for data in outputs]
    mapped: dict[str, str] = {}
    shifts: dict[Person, int] = {}
    replaced: dict[tuple[Person, str], str] = {}
    for case, one in zip(cases, parsed, strict=True):
        for action, path, stored, more in case.required:
            value = _at(one, path)
            right = False
            if action == "remove":
                right = value is None or not _holds(value, more)
            elif action == "replace":
                right = value is not None and not _holds(value, more)
                right = right and replaced.setdefault((case.person, path[0]), _text(value)) == _text(value)
            elif action == "clean":
                words, secrets = more
                yield "words", value is not None and all(word in _text(value) for word in words), case, path, value
                right = value is None or not _holds(value, secrets)
            elif action == "map":
                right = (
                    value is not None
                    and _text(value) != stored
                    and mapped.setdefault(stored, _text(value)) == _text(value)
                )
            elif action == "shift":
                days = _days(str(stored), _text(value)) if value is not None else None
                right = days not in (None, 0) and shifts.setdefault(case.person, days or 0) == days
            elif action == "keep":
                right = _same(value, stored)
            yield action, right, case, path, value


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--seed", type=int, default=26)
    parser.add_argument("--wrong", action="store_true", help="print what ours did wrong (planted values, no patient's)")
    parser.add_argument("--dicom-anonymizer", help="a Python that has dicom-anonymizer")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    people = [person_of(rng) for _ in range(max(1, options.files // 4))]
    cases = [build(rng, people[i // 4 % len(people)], i, i % 2) for i in range(options.files)]
    tools: dict[str, Tool] = {"ours": ours, "dicognito": dicognito, "deid": deid}
    if options.dicom_anonymizer:
        tools["dicom_anonymizer"] = dicom_anonymizer(options.dicom_anonymizer)
    result: dict[str, float] = {}
    kinds = ("remove", "replace", "clean", "map", "shift", "keep", "words")
    print(f"{'right of required, %':<22}" + "".join(f"{kind:>10}" for kind in (*kinds, "all")))
    wrong: dict[str, int] = {}
    for name, tool in tools.items():
        total: Counter[str] = Counter()
        right: Counter[str] = Counter()
        for kind, fine, _case, path, value in judge(cases, tool(cases)):
            total[kind] += 1
            right[kind] += fine
            if options.wrong and name == "ours" and not fine:
                print("wrong:", kind, path, repr(value)[:100])
        kept, identity = ("keep", "words"), ("remove", "replace", "clean", "map", "shift")
        share = {kind: 100 * right[kind] / max(total[kind], 1) for kind in kinds}
        score = 100 * right.total() / total.total()
        wrong[name] = total.total() - right.total()
        print(f"{name:<22}" + "".join(f"{share[kind]:10.2f}" for kind in kinds) + f"{score:10.2f}")
        prefix = "" if name == "ours" else f"{name}_"
        result[f"{prefix}score_percent"] = round(score, 3)
        for label, group in (("kept", kept), ("identity", identity)):
            result[f"{prefix}{label}_percent"] = round(
                100 * sum(right[k] for k in group) / max(sum(total[k] for k in group), 1), 3
            )
        if name == "ours":
            result["actions"] = total.total()
        else:
            result[f"ratio_{name}"] = round(wrong[name] / max(wrong["ours"], 1), 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
