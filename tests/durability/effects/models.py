"""What the jobs leave behind. Nothing is unique here: a double effect must be able to show."""

from django.db import models


class Effect(models.Model):
    """One effect of one job."""

    name = models.CharField(max_length=100)
    stage = models.CharField(max_length=20)

    class Meta:
        app_label = "effects"

    def __str__(self) -> str:
        return f"{self.stage} {self.name}"
