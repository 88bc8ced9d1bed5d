"""House rules that no linter knows: size of files, no raw model edits, nothing that should not be in the repository.

python -m tests.rules
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES = 500
CODE = {".py", ".css", ".js", ".html", ".sh"}
TOP_LEVEL = {
    "oncoflow_site", "imaging", "clinical", "fhir_api", "inference", "reports", "audit", "tests", "manage.py", "pyproject.toml",
    "README.md", "docs", "deploy", ".ci", ".github", "Makefile", "package.json", "package-lock.json", ".gitignore", "LICENSE",
    ".gitattributes",
}  # fmt: skip
LARGEST_FILE = 16 << 20


def tracked() -> list[Path]:
    """Files that git knows or would add."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]


PRODUCT = ("oncoflow_site", "imaging", "clinical", "fhir_api", "inference", "reports", "audit")


def product_files() -> list[Path]:
    """Python files of the product, without migrations."""
    return [
        path
        for path in tracked()
        if path.suffix == ".py"
        and path.relative_to(ROOT).parts[0] in PRODUCT
        and "migrations" not in path.relative_to(ROOT).parts
    ]


def broken_rules() -> list[str]:
    """One sentence for every rule that a file breaks."""
    found = []
    for path in tracked():
        name = path.relative_to(ROOT)
        if name.parts[0] not in TOP_LEVEL:
            found.append(f"{name}: nothing of this name belongs at the top level")
        if path.stat().st_size > LARGEST_FILE:
            found.append(f"{name}: larger than {LARGEST_FILE >> 20} MiB")
        if path.suffix in CODE and "migrations" not in name.parts:
            lines = path.read_text(encoding="utf-8").count("\n")
            if lines > MOST_LINES:
                found.append(f"{name}: {lines} lines, {MOST_LINES} are the most")
    return found


def main() -> int:
    found = broken_rules()
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
