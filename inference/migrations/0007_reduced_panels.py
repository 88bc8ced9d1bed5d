"""Panels over studies with missing sequences: what each expert was given, experts that cannot run, rows that do not count."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0006_fusion_choices")]

    operations = [
        migrations.AddField(
            model_name="expertrun",
            name="sequences",
            field=models.JSONField(
                blank=True, default=list, help_text="What it is given, where sequences are missing; empty: all four."
            ),
        ),
        migrations.AlterField(
            model_name="expertrun",
            name="state",
            field=models.CharField(
                choices=[
                    ("waiting", "Waiting"),
                    ("running", "Running"),
                    ("done", "Done"),
                    ("failed", "Failed"),
                    ("cancelled", "Cancelled"),
                    ("not_run", "not run"),
                ],
                default="waiting",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="caseevaluation",
            name="reduced",
            field=models.BooleanField(
                default=False, help_text="Sequences were missing: such a case says nothing about the model's standing."
            ),
        ),
    ]
