"""From here on the database refuses to change or remove audit rows."""

from django.db import migrations

from audit import triggers

TABLES = ("audit_auditrow",)


def forwards(apps, schema_editor):
    triggers.install(schema_editor.connection, TABLES)


def backwards(apps, schema_editor):
    triggers.remove(schema_editor.connection, TABLES)


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]
    operations = [migrations.RunPython(forwards, backwards)]
