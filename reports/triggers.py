"""The database's own refusal to change an issued version, for SQLite and PostgreSQL.

The rows that are frozen are those with ``issued_at``. Deleting is refused in code and by the foreign keys that point here; on
PostgreSQL by a trigger as well. A later migration that makes SQLite rebuild the table loses the trigger: it has to end with
`install` again.
"""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import NotSupportedError

__all__ = ["TABLE", "install", "remove"]

TABLE = "reports_reportversion"
_MESSAGE = "issued report versions cannot change"


def install(connection: BaseDatabaseWrapper) -> None:
    """Create the triggers. :raises NotSupportedError: on a database for which there are none."""
    remove(connection)
    if connection.vendor == "sqlite":
        statements = [
            f"CREATE TRIGGER {TABLE}_frozen BEFORE UPDATE ON {TABLE} WHEN OLD.issued_at IS NOT NULL "
            f"BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END"
        ]
    elif connection.vendor == "postgresql":
        statements = [
            f"CREATE OR REPLACE FUNCTION {TABLE}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_MESSAGE}'; END $$",
            f"CREATE TRIGGER {TABLE}_frozen BEFORE UPDATE OR DELETE ON {TABLE} FOR EACH ROW "
            f"WHEN (OLD.issued_at IS NOT NULL) EXECUTE FUNCTION {TABLE}_refuse()",
        ]
    else:
        raise NotSupportedError(f"no triggers for {connection.vendor}")
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def remove(connection: BaseDatabaseWrapper) -> None:
    """Drop the triggers, for undoing the migration."""
    where = f" ON {TABLE}" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER IF EXISTS {TABLE}_frozen{where}")
