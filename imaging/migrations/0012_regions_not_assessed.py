"""Which regions a segmentation says nothing about. Those that are there say something about all of them."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("imaging", "0011_faces")]

    operations = [
        migrations.AddField(
            model_name="segmentation",
            name="not_assessed",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text="Region -> why it says nothing about it; a region that is not named is assessed.",
            ),
        ),
    ]
