"""How each model's outline compared with a reference, case by case, and the fusion weights learned from that."""

from __future__ import annotations

from django.db import models

from inference.models.panels import PanelRun
from inference.models.versions import ModelVersion
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id

__all__ = ["CaseEvaluation", "FusionWeights", "ReferenceKind"]


class ReferenceKind(models.TextChoices):
    """What an outline was compared with."""

    CONSENSUS = "consensus", "the panel's consensus"
    REVIEWED = "reviewed", "a person's or an imported outline"


class CaseEvaluation(models.Model):
    """One outline against one reference, one region. Both are on the grid of one volume set. Written once."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey("imaging.Study", on_delete=models.PROTECT, related_name="case_evaluations")
    panel_run = models.ForeignKey(PanelRun, on_delete=models.PROTECT, related_name="case_evaluations")
    expert = models.CharField(
        max_length=100, help_text="Name in the panel's configuration; consensus for the fused one."
    )
    model_version = models.ForeignKey(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="case_evaluations"
    )
    segmentation = models.ForeignKey("imaging.Segmentation", on_delete=models.PROTECT, related_name="evaluations")
    reference = models.ForeignKey("imaging.Segmentation", on_delete=models.PROTECT, related_name="evaluations_against")
    reference_kind = models.CharField(max_length=10, choices=ReferenceKind.choices)
    region = models.CharField(max_length=2)
    dice = models.FloatField(help_text="1 where both are empty.")
    iou = models.FloatField(help_text="1 where both are empty.")
    hd95_mm = models.FloatField(null=True, blank=True, help_text="Null where exactly one is empty or mm are unknown.")
    volume_mm3 = models.FloatField(null=True, blank=True)
    reference_mm3 = models.FloatField(null=True, blank=True)
    runtime_s = models.FloatField(null=True, blank=True)
    reduced = models.BooleanField(
        default=False, help_text="Sequences were missing: such a case says nothing about the model's standing."
    )
    at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-at", "expert", "region"]
        constraints = [
            models.UniqueConstraint(fields=["segmentation", "reference", "region"], name="outline_evaluated_once"),
        ]
        indexes = [
            models.Index(fields=["model_version", "reference_kind", "region", "-at"], name="evaluations_of_model")
        ]

    def __str__(self) -> str:
        return f"{self.expert} {self.region} {self.dice:.3f} against {self.reference_kind}"


class FusionWeights(models.Model):
    """One version of the weights of weighted fusion, learned from reviewed cases. The newest one is used."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    version = models.PositiveIntegerField(unique=True)
    weights = models.JSONField(
        help_text="Model version id -> region -> weight, reviewed mean and count, held-out mean."
    )
    formula = models.CharField(max_length=500)
    who = models.CharField(max_length=150)
    why = models.CharField(max_length=1000)
    at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-version"]
        verbose_name_plural = "fusion weights"

    def __str__(self) -> str:
        return f"fusion weights {self.version}"
