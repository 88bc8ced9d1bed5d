"""House rules that no linter knows: size of files, nothing that should not be in the repository, one meaning for a class name,
no circle of imports, no test that leans on another test.

python -m tests.rules
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
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


@lru_cache(maxsize=1)
def syntax_trees() -> Mapping[str, ast.Module]:
    """The product's modules by dotted name."""
    return {_module(path): ast.parse(path.read_text(encoding="utf-8")) for path in product_files()}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SAME_NAME = {
    "Anatomy": "as Grid: what is drawn, and what is found",
    "Command": "Django's name for every management command",
    "FhirError": "the demo's hospital information system answers as its own server, and knows nothing of ours",
    "Grid": "the simulator computes without the product: an oracle must not share the code that it judges",
    "Lesion": "as Grid: a lesion that is drawn, and one that is measured",
    "PatientIdentity": "as Grid: who is simulated, and the sealed row",
    "Person": "two clients of the demo, each with the fields that it needs",
    "Step": "what the demo prints, and what a watcher of jobs waits for",
}
"""Class names that two modules may use, and why."""


def ambiguous_class_names(trees: Mapping[str, ast.Module], exempt: Mapping[str, str]) -> Iterator[str]:
    """A public class name that two modules give to two things; and exemptions that nothing needs any more."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    twice = {name: modules for name, modules in places.items() if len(modules) > 1}
    for name in sorted(twice.keys() - exempt.keys()):
        yield f"class {name}: two meanings, in {' and '.join(sorted(twice[name]))}"
    for name in sorted(exempt.keys() - twice.keys()):
        yield f"tests/rules.py: class {name} has one meaning now; its exemption is stale"


def import_circle(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """Modules that import each other, wherever the import stands: inside a function and for types alone count too."""
    imported: dict[str, set[str]] = {}
    for module, tree in trees.items():
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= inner & trees.keys() or {node.module}
        imported[module] = (names & trees.keys()) - {module}
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        yield f"a circle of imports: {' <- '.join(error.args[1])}"


def imports_of_test_modules() -> Iterator[str]:
    """Helpers belong into `tests/factories` or beside the tests under a name of their own: a test module is not imported."""
    for path in tracked():
        name = path.relative_to(ROOT)
        if path.suffix != ".py" or name.parts[0] != "tests":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests."):
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names if alias.name.startswith("tests.")]
            else:
                continue
            for module in modules:
                last = module.rpartition(".")[2]
                if (
                    last.startswith("test_") and (ROOT / f"{module.replace('.', '/')}.py").is_file()
                ) or last == "conftest":
                    yield f"{name}: imports {module}, which holds tests or fixtures"


def broken_rules() -> list[str]:
    """One sentence for every rule that a file breaks."""
    found = [
        *ambiguous_class_names(syntax_trees(), SAME_NAME),
        *import_circle(syntax_trees()),
        *imports_of_test_modules(),
    ]
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
