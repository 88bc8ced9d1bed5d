"""The database's own refusal to change audit rows, for SQLite and PostgreSQL.

It binds whoever speaks to the tables through the service's account, raw SQL included. Who owns the tables can still
drop a trigger: in production the service should run under a role that does not own them.
"""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import NotSupportedError

__all__ = ["APPEND_ONLY_TABLES", "install", "remove"]

APPEND_ONLY_TABLES = ("audit_auditrow",)
_MESSAGE = "audit rows are append-only"


def _sqlite(table: str) -> list[str]:
    refuse = f"BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END"
    return [
        f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}",
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}",
        # INSERT OR REPLACE removes the old row without asking a DELETE trigger.
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "  # noqa: S608  (our own table names)
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) {refuse}",
    ]


def _postgresql(table: str) -> list[str]:
    names = (("no_change", "UPDATE OR DELETE", "ROW"), ("no_truncate", "TRUNCATE", "STATEMENT"))
    statements = [
        f"CREATE OR REPLACE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_MESSAGE}'; END $$"
    ]
    for suffix, events, level in names:
        statements += [
            f"CREATE TRIGGER {table}_{suffix} BEFORE {events} ON {table} "
            f"FOR EACH {level} EXECUTE FUNCTION {table}_refuse()",
            # ALWAYS: also where session_replication_role would switch ordinary triggers off.
            f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{suffix}",
        ]
    return statements


def install(connection: BaseDatabaseWrapper, tables: tuple[str, ...] = APPEND_ONLY_TABLES) -> None:
    """Create the triggers. :raises NotSupportedError: on a database for which there are none."""
    for table in tables:
        if connection.vendor == "sqlite":
            statements = _sqlite(table)
        elif connection.vendor == "postgresql":
            statements = _postgresql(table)
        else:
            raise NotSupportedError(f"no append-only triggers for {connection.vendor}")
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def remove(connection: BaseDatabaseWrapper, tables: tuple[str, ...] = APPEND_ONLY_TABLES) -> None:
    """Drop the triggers: for undoing the migration, and for test databases that are emptied between tests."""
    for table in tables:
        if connection.vendor == "sqlite":
            statements = [f"DROP TRIGGER IF EXISTS {table}_{name}" for name in ("no_update", "no_delete", "no_replace")]
        else:
            statements = [f"DROP TRIGGER IF EXISTS {table}_{name} ON {table}" for name in ("no_change", "no_truncate")]
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
