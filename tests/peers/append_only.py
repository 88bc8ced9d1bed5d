"""Lets a transactional test empty its database.

Django empties every table after a test that really commits. The audit tables refuse that, as they should; so around the
emptying, and only there, their triggers are taken away.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.test.testcases import TransactionTestCase


@pytest.fixture(scope="session", autouse=True)
def _empty_audit_tables_between_transactional_tests() -> Any:
    from django.db import connections

    from audit import triggers

    original = TransactionTestCase._fixture_teardown

    def teardown(self: TransactionTestCase) -> None:
        for name in self._databases_names(include_mirrors=False):
            triggers.remove(connections[name])
        try:
            original(self)
        finally:
            for name in self._databases_names(include_mirrors=False):
                triggers.install(connections[name])

    # TestCase has a teardown of its own (it rolls back), so only tests that commit come here.
    TransactionTestCase._fixture_teardown = teardown  # type: ignore[method-assign]
    yield
    TransactionTestCase._fixture_teardown = original  # type: ignore[method-assign]
