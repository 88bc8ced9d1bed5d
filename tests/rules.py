"""House rules that no linter knows: size of files, nothing that should not be in the repository, one meaning for a class name,
no circle of imports, no test that leans on another test.

python -m tests.rules
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
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


LOOSE_JSON = {
    "audit.models.detail": "a few ids and codes, another set for each event",
    "clinical.models.identity.contradicts": "a list of three words",
    "clinical.models.identity.matching_types": "a list of codes",
    "clinical.models.identity.other_names": "a list of names of an authority",
    "fhir_api.models.authority_names": "a list of names of an authority",
    "fhir_api.models.capabilities": "an administrator's settings of an endpoint",
    "fhir_api.models.order_codes": "a list of codes",
    "fhir_api.models.order_modalities": "a list of codes",
    "fhir_api.models.scopes": "a list of scopes",
    "imaging.models.archive.deidentification": "counts by attribute",
    "imaging.models.archive.image": "attributes of a header and where the pixels lie in the file",
    "imaging.models.archive.parameters": "attributes of a header that recognition reads",
    "imaging.models.archive.protocol": "words and numbers that tell a protocol",
    "imaging.models.deidentification.attributes": "counts by attribute",
    "imaging.models.deidentification.codes": "a list of codes",
    "imaging.models.deidentification.pixels": "counts",
    "imaging.models.faces.plane": "a normal and an offset",
    "imaging.models.protocols.protocol": "as that of a series",
    "imaging.models.published.layout": "places in a file",
    "imaging.models.uploads.counts": "counts",
    "inference.models.evaluations.weights": "means and counts by model and region",
    "inference.models.versions.distribution": "the file that came with the weights, as it is",
    "inference.models.versions.evaluation": "the file that came with the weights, as it is",
    "inference.models.versions.evidence": "what a decision of a person stood on",
    "inference.models.versions.minimum_mm3": "cubic millimetres by region, as model.json has them",
    "oncoflow_site.foundation.models.headers": "of one transport",
    "oncoflow_site.foundation.models.kwargs": "arguments of a job",
    "oncoflow_site.foundation.models.payload": "ids of an event",
    "oncoflow_site.foundation.models.result": "of a job",
}
"""JSON columns without a schema, and what they hold. Facts about a patient have one (`oncoflow_site.foundation.schema_field`)."""
DOCUMENT_COLUMNS = frozenset(
    {"agreement", "anatomy", "gate", "lesions", "midline", "midline_shift", "result", "transform"}
)
"""Columns whose attribute is one object (or a tuple of them): never asked by a key."""
MOST_LOOSE_DICTIONARIES = 72
"""``dict[str, Any]`` in the product; the number only goes down."""


def loose_json_columns(trees: Mapping[str, ast.Module], exempt: Mapping[str, str]) -> Iterator[str]:
    """JSON columns that have no schema; and exemptions that nothing needs any more."""
    loose = set()
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                continue
            called, target = node.value.func, node.targets[0]
            if isinstance(called, ast.Attribute) and called.attr == "JSONField" and isinstance(target, ast.Name):
                loose.add(f"{module}.{target.id}")
    for name in sorted(loose - exempt.keys()):
        yield f"{name}: a JSON column without a schema"
    for name in sorted(exempt.keys() - loose):
        yield f"tests/rules.py: {name} is no loose JSON column; its exemption is stale"


def keys_of_documents(trees: Mapping[str, ast.Module], columns: Set[str]) -> Iterator[str]:
    """``row.result["x"]`` and ``row.result.get("x")``: a column with a schema is asked by attribute."""
    for module, tree in trees.items():
        for node in ast.walk(tree):
            asked, key = None, None
            if isinstance(node, ast.Subscript):
                asked, key = node.value, node.slice
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                asked, key = node.func.value, next(iter(node.args), None)
            if not isinstance(asked, ast.Attribute) or asked.attr not in columns:
                continue
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield f"{module}, line {node.lineno}: {asked.attr} has a schema and is asked by attribute, not by key"


def loose_dictionaries(paths: Iterable[Path]) -> int:
    """How often ``dict[str, Any]`` stands in some files."""
    return sum(path.read_text(encoding="utf-8").count("dict[str, Any]") for path in paths)


def assertions(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """``assert`` in the product: ``python -O`` takes it away, so it validates nothing."""
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                yield f"{module}, line {node.lineno}: an assert validates nothing; raise, or use foundation.errors.required"


def broken_rules() -> list[str]:
    """One sentence for every rule that a file breaks."""
    found = [
        *ambiguous_class_names(syntax_trees(), SAME_NAME),
        *import_circle(syntax_trees()),
        *imports_of_test_modules(),
        *loose_json_columns(syntax_trees(), LOOSE_JSON),
        *keys_of_documents(syntax_trees(), DOCUMENT_COLUMNS),
        *assertions(syntax_trees()),
    ]
    if (loose := loose_dictionaries(product_files())) > MOST_LOOSE_DICTIONARIES:
        found.append(f"dict[str, Any] stands {loose} times in the product, {MOST_LOOSE_DICTIONARIES} are the most")
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


EXECUTOR = "oncoflow_site/foundation/machines.py"
STATES = {"state", "status"}
NO_MACHINE = {"inference/registry/standing.py": "a model's standing: any to any, by a person, with a reason"}


def hand_set_states() -> list[str]:
    """Where the product sets a state by hand instead of by its machine: ``rows.update(state=...)``, ``row.state = ...``.

    An object's own attribute of that name (``self.status`` of a response) is no row's.
    """
    found = []
    for path in product_files():
        name = path.relative_to(ROOT)
        if str(name) == EXECUTOR or str(name) in NO_MACHINE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                by_hand = node.func.attr in ("update", "bulk_update") and STATES & {one.arg for one in node.keywords}
            elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                flat = [one for target in targets for one in getattr(target, "elts", [target])]
                by_hand = {
                    one.attr
                    for one in flat
                    if isinstance(one, ast.Attribute)
                    and one.attr in STATES
                    and not (isinstance(one.value, ast.Name) and one.value.id == "self")
                }
            else:
                continue
            if by_hand:
                found.append(
                    f"{name}:{node.lineno}: a state is moved by its machine (apply, advance), never set by hand"
                )
    return found


def main() -> int:
    found = broken_rules() + hand_set_states()
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
