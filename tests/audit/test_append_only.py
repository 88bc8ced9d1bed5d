"""The database itself refuses: raw SQL, past the models, on whichever database the tests run on."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from audit.codes import declare_code
from audit.models import AuditRow
from audit.services import record

declare_code("test.act", "A test acted")

UPDATE = "UPDATE audit_auditrow SET event = 'other.event'"
DELETE = "DELETE FROM audit_auditrow"
_COLUMNS = (
    "id, recorded, actor_type, actor_id, actor_role, action, event, resource, outcome, request_id, source, detail"
)
_REPLACED = (
    f"SELECT id, recorded, actor_type, 'forged', actor_role, {_COLUMNS.split('actor_role, ')[1]} FROM audit_auditrow"
)

ATTACKS = {
    "update": {"sqlite": UPDATE, "postgresql": UPDATE},
    "update of one": {"sqlite": f"{UPDATE} WHERE id > 0", "postgresql": f"{UPDATE} WHERE id > 0"},
    "delete": {"sqlite": DELETE, "postgresql": DELETE},
    "replace": {
        "sqlite": f"INSERT OR REPLACE INTO audit_auditrow ({_COLUMNS}) {_REPLACED}",
        "postgresql": f"INSERT INTO audit_auditrow ({_COLUMNS}) {_REPLACED} "
        "ON CONFLICT (id) DO UPDATE SET actor_id = 'forged'",
    },
    "truncate": {"sqlite": DELETE, "postgresql": "TRUNCATE audit_auditrow CASCADE"},
    "replica role": {
        "sqlite": "UPDATE OR REPLACE audit_auditrow SET actor_id = 'forged'",
        "postgresql": f"SET LOCAL session_replication_role = replica; {UPDATE}",
    },
}


@pytest.mark.django_db
@pytest.mark.parametrize("attack", ATTACKS)
def test_raw_sql_cannot_alter_the_record(attack: str) -> None:
    row = record("test.act", action="R", resource="study:1")
    before = AuditRow.objects.values().get(pk=row.pk)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(ATTACKS[attack][connection.vendor])
    assert list(AuditRow.objects.values()) == [before]


@pytest.mark.django_db
def test_adding_still_works() -> None:
    for number in range(3):
        record("test.act", action="C", resource=f"study:{number}")
    assert AuditRow.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_emptying_the_test_database_leaves_the_triggers_in_place() -> None:
    record("test.act", action="R", resource="")


@pytest.mark.django_db(transaction=True)
def test_and_they_hold_afterwards() -> None:
    assert not AuditRow.objects.exists()
    record("test.act", action="R", resource="")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(DELETE)
