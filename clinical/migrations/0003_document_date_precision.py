from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clinical", "0002_whose_is_it")]

    operations = [
        migrations.AddField(
            model_name="clinicaldocument",
            name="authored_precision",
            field=models.CharField(
                choices=[("year", "year"), ("month", "month"), ("day", "day"), ("time", "time")],
                default="time",
                max_length=5,
            ),
        ),
    ]
