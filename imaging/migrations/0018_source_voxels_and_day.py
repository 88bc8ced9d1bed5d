from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("imaging", "0017_study_findings"),
    ]

    operations = [
        migrations.AddField(
            model_name="study",
            name="performed_on_day",
            field=models.BooleanField(
                default=False, help_text="Only the day is known: the time of performed_at is noon and is never shown."
            ),
        ),
        migrations.AddField(
            model_name="volume",
            name="source_sha256",
            field=models.CharField(
                blank=True, db_index=True, default="", help_text="Of the source's voxels in RAS order.", max_length=64
            ),
        ),
    ]
