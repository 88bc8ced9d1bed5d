import django.db.models.deletion
import oncoflow_site.foundation.clock
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("imaging", "0014_volume_facts")]

    operations = [
        migrations.CreateModel(
            name="OutlineAcceptance",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("accepted_by", models.CharField(help_text="User name.", max_length=150)),
                ("accepted_at", models.DateTimeField(default=oncoflow_site.foundation.clock.now)),
                (
                    "segmentation",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="acceptance",
                        to="imaging.segmentation",
                    ),
                ),
            ],
        ),
    ]
