"""Runs the test suite the way `make test` does, and says at the end which real parts took part.

    python -m tests.run [pytest arguments]

On two workers; the tests that load torch share one of them, one after another. Modules run in random order
(ONCOFLOW_RANDOM_ORDER=0: in the order of their names) and coverage is reported (ONCOFLOW_COVERAGE=0: not); with
ONCOFLOW_REQUIRE_PEERS=1 (continuous integration) a real part that could be installed and was skipped is a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Real part -> can be installed from the system's packages or is started by a command of the peers' folder
PARTS = {
    "postgresql": "PostgreSQL",
    "redis": "Redis",
    "orthanc": "Orthanc with DICOMweb",
    "dcmtk": "dcmtk (storescu, echoscu)",
    "dicom3tools": "dicom3tools (dciodvfy)",
    "chromium": "Chromium",
    "ohif": "OHIF viewer (npm)",
    "poppler": "poppler (pdfsig, pdftoppm)",
    "tesseract": "Tesseract",
    "moto": "S3 and SQS (moto's server)",
    "azurite": "Azure Blob (Azurite)",
    "elasticsearch": "Elasticsearch",
    "hapi-fhir": "HAPI FHIR server",
    "fhir-validator": "HL7 FHIR validator",
    "hapi-hl7": "HAPI HL7 v2",
    "test-data": "real test data",
}
# What .ci/run installs itself; the others come with a folder that not every machine has.
INSTALLABLE = (
    "postgresql",
    "redis",
    "orthanc",
    "dcmtk",
    "dicom3tools",
    "chromium",
    "ohif",
    "poppler",
    "tesseract",
    "moto",
    "azurite",
)


def pytest(arguments: list[str], report: Path) -> int:
    """One pytest process; ``report`` receives what it used and skipped."""
    env = dict(os.environ, ONCOFLOW_PARTS_REPORT=str(report))
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=env, check=False).returncode


def table(report: Path) -> list[str]:
    """Prints the closing table; returns what could have been installed and took no part."""
    used: dict[str, int] = defaultdict(int)
    skipped: dict[str, str] = {}
    for line in report.read_text(encoding="utf-8").splitlines() if report.exists() else []:
        entry = json.loads(line)
        if entry["outcome"] == "used":
            used[entry["part"]] += 1
        else:
            skipped[entry["part"]] = entry["reason"]
    print("\nReal parts that took part")
    for part, title in PARTS.items():
        if used[part]:
            state = f"used by {used[part]} tests" + (f"; skipped in some: {skipped[part]}" if part in skipped else "")
        else:
            state = f"SKIPPED: {skipped.get(part, 'no test asked for it')}"
        print(f"  {title:32} {state}")
    return [part for part in INSTALLABLE if not used[part]]


def main() -> int:
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "parts.jsonl"
        if any(not one.startswith("-") for one in arguments):  # somebody named tests: run just those
            code = pytest(arguments, report)
        else:
            measured = os.environ.get("ONCOFLOW_COVERAGE", "1") == "1"
            extra = ["--cov", "--cov-report="] if measured else []
            if os.environ.get("ONCOFLOW_RANDOM_ORDER", "1") == "1":
                extra.append("--random-order-bucket=module")
            workers = ["-n", os.environ.get("ONCOFLOW_TEST_WORKERS", "2"), "--dist", "loadgroup"]
            code = pytest([*workers, *extra, *arguments], report)
            if measured:
                subprocess.run([sys.executable, "-m", "coverage", "report", "--skip-covered"], cwd=ROOT, check=False)
        missing = table(report)
    if missing and os.environ.get("ONCOFLOW_REQUIRE_PEERS") == "1":
        print(f"\nFAILED: skipped although they must take part here: {', '.join(missing)}")
        code = code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
