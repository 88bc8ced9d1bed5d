"""The house rules can be broken: each is shown a product that breaks it."""

from __future__ import annotations

import ast

import pytest

from tests.rules import ambiguous_class_names, assertions, import_circle, keys_of_documents, loose_json_columns


def product(**modules: str) -> dict[str, ast.Module]:
    return {name.replace("__", "."): ast.parse(text) for name, text in modules.items()}


def test_a_class_name_means_one_thing():
    trees = product(a="class Grid: ...", b="class Grid: ...\nclass _Own: ...", c="class _Own: ...\nclass Plane: ...")
    assert list(ambiguous_class_names(trees, {})) == ["class Grid: two meanings, in a and b"]
    assert list(ambiguous_class_names(trees, {"Grid": "why"})) == []


def test_an_exemption_that_nothing_needs_is_reported():
    found = list(ambiguous_class_names(product(a="class Grid: ..."), {"Grid": "why"}))
    assert found == ["tests/rules.py: class Grid has one meaning now; its exemption is stale"]


@pytest.mark.parametrize(
    "back",
    ["import a", "from a import x", "if TYPE_CHECKING:\n    import a", "def late():\n    from a import x"],
)
def test_modules_do_not_import_each_other(back):
    found = list(import_circle(product(a="import c", b=back, c="import b")))
    assert len(found) == 1
    assert found[0].startswith("a circle of imports: ")


def test_a_package_may_be_imported_for_one_of_its_modules():
    assert not list(import_circle(product(a="from p import b", p="", p__b="import os")))
    assert list(import_circle(product(a="from p import b", p="", p__b="import a")))


def test_a_json_column_has_a_schema_or_a_reason():
    trees = product(room__models="detail = models.JSONField(default=dict)\nfacts = schema_field(FACTS)")
    assert list(loose_json_columns(trees, {})) == ["room.models.detail: a JSON column without a schema"]
    assert list(loose_json_columns(trees, {"room.models.detail": "why"})) == []
    assert len(list(loose_json_columns(product(a="x = 1"), {"a.x": "why"}))) == 1


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ('row.result["response"]', True),
        ('row.gate.get("band")', True),
        ("row.result.response.category", False),
        ('row.result.regions["ET"]', False),
        ("row.lesions[0]", False),
        ("row.result[key]", False),
    ],
)
def test_a_column_with_a_schema_is_asked_by_attribute(text, broken):
    assert bool(list(keys_of_documents(product(a=text), {"result", "gate", "lesions"}))) is broken


def test_nothing_is_validated_by_an_assert():
    trees = product(a="def f(x):\n    assert x is not None\n    return x", b="def f(x):\n    return required(x, 'x')")
    assert [one.partition(":")[0] for one in assertions(trees)] == ["a, line 2"]
