"""Confusion table of sequence recognition: simulated headers of four vendors' protocols, and the real series.

``wrong`` counts series that were given one of the four names and are not that; ``missed`` those of the four that a person
must name. The simulated headers and the rules are of one hand: the table shows that rules hold for common protocols,
not how often unknown ones fail.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import django

NAMES = ("T1", "T1c", "T2", "FLAIR", "other", "unknown")
FOUR = NAMES[:4]


def main() -> None:
    """Print the tables and the JSON line."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oncoflow_site.settings")
    django.setup()
    from imaging.recognition.rules import recognise
    from tests.factories.protocols import real, simulated

    data = Path(os.environ.get("ONCOFLOW_TEST_DATA", "/nowhere"), "dicom")
    sets = {
        "simulated": simulated(),
        "no_description": simulated(without=("SeriesDescription",)),
        "no_physics": simulated(
            without=("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "ScanningSequence")
        ),
        "real": real(data) if data.is_dir() else iter(()),
    }
    result: dict[str, int] = {}
    for title, rows in sets.items():
        table: Counter[tuple[str, str]] = Counter((truth, recognise(header).sequence) for _, truth, header in rows)
        wrong = sum(n for (truth, found), n in table.items() if found in FOUR and found != truth)
        missed = sum(n for (truth, found), n in table.items() if truth in FOUR and found not in FOUR)
        print(f"{title}: {sum(table.values())} series\n{'truth':<8}" + "".join(f"{name:>9}" for name in NAMES))
        for truth in NAMES[:5]:
            print(f"{truth:<8}" + "".join(f"{table[truth, found] or '.':>9}" for found in NAMES))
        print()
        result |= {f"{title}_series": sum(table.values()), f"{title}_wrong": wrong, f"{title}_missed": missed}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
