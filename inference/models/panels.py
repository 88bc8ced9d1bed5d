"""Panels and the experts' parts in them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from inference.models.versions import ModelStatus, ModelVersion
from inference.schemas.agreement import AGREEMENT, METHODS
from inference.schemas.gate import GATE, REASONS, THRESHOLDS
from inference.schemas.panel import ENVIRONMENT, NAMES, REMARKS
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.machines import StateMachine
from oncoflow_site.foundation.schema_field import schema_field

__all__ = [
    "EXPERT_MACHINE",
    "FUSION_CHOICE_MACHINE",
    "PANEL_MACHINE",
    "Band",
    "ExpertRun",
    "ExpertState",
    "FusionChoice",
    "FusionChoiceState",
    "PanelRun",
    "PanelState",
]


class PanelState(models.TextChoices):
    """Life of a panel."""

    WAITING = "waiting"
    RUNNING = "running"
    CONCLUDED = "concluded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ExpertState(models.TextChoices):
    """Life of one expert's part in a panel."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOT_RUN = "not_run", "not run"


class FusionChoiceState(models.TextChoices):
    """Life of a person's choice of experts and fusion."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


class Band(models.TextChoices):
    """What the gate decided: issue as preliminary, hold for review, or ask for a person's segmentation."""

    NONE = "", "not decided"
    ISSUE = "issue", "issue as preliminary"
    HOLD = "hold", "hold for radiologist review"
    MANUAL = "manual", "a person's segmentation is required"


PANEL_MACHINE = StateMachine(
    name="panel",
    states=tuple(PanelState.values),
    table={
        ("waiting", "start"): "running",
        ("running", "start"): "running",  # the second expert, or the same job run again
        ("waiting", "conclude"): "concluded",  # every expert failed before it started
        ("running", "conclude"): "concluded",
        ("waiting", "fail"): "failed",
        ("running", "fail"): "failed",
        ("waiting", "cancel"): "cancelled",
        ("running", "cancel"): "cancelled",
    },
)

EXPERT_MACHINE = StateMachine(
    name="expert run",
    states=tuple(ExpertState.values),
    table={
        ("waiting", "start"): "running",
        ("running", "start"): "running",  # the attempt before was killed
        ("waiting", "fail"): "failed",
        ("running", "fail"): "failed",
        ("running", "finish"): "done",
        ("waiting", "cancel"): "cancelled",
        ("running", "cancel"): "cancelled",
    },
)


FUSION_CHOICE_MACHINE = StateMachine(
    name="fusion choice",
    states=tuple(FusionChoiceState.values),
    table={
        ("waiting", "finish"): "done",
        ("waiting", "fail"): "failed",
    },
)


@PANEL_MACHINE.governs("state")
class PanelRun(models.Model):
    """All experts over one set of volumes of one study."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey("imaging.Study", on_delete=models.PROTECT, related_name="panel_runs")
    volume_set = models.ForeignKey("imaging.VolumeSet", on_delete=models.PROTECT, related_name="panel_runs")
    state = models.CharField(max_length=10, choices=PanelState.choices, default=PanelState.WAITING)
    fusion = models.CharField(max_length=30, blank=True, default="", help_text="How the masks were fused.")
    agreement = schema_field(AGREEMENT, default=dict, blank=True)
    gate = schema_field(GATE, default=dict, blank=True)
    band = models.CharField(max_length=10, choices=Band.choices, blank=True, default=Band.NONE)
    consensus = models.ForeignKey(
        "imaging.Segmentation", null=True, blank=True, on_delete=models.PROTECT, related_name="panel_runs"
    )
    disagreement = models.ForeignKey(
        "foundation.StoredObject", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    thresholds = schema_field(THRESHOLDS, default=dict, blank=True)
    reasons = schema_field(REASONS, default=list, blank=True)
    methods = schema_field(
        METHODS,
        default=dict,
        blank=True,
        help_text="Every fusion method over the same experts: volumes and Dice, to compare.",
    )
    demo = models.BooleanField(default=False, help_text="A vote in it was earned on simulated patients.")
    started_at = models.DateTimeField(default=now)
    concluded_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-started_at", "-id"]
        constraints = [
            # A cancelled or failed panel may be followed by another over the same volumes, one that counts may not.
            models.UniqueConstraint(
                fields=["volume_set"], condition=~Q(state__in=("cancelled", "failed")), name="one_panel_per_volume_set"
            ),
            models.CheckConstraint(
                condition=~Q(state="concluded") | Q(concluded_at__isnull=False), name="concluded_panel_has_its_time"
            ),
        ]

    def __str__(self) -> str:
        return f"panel {self.id} {self.state}"


@EXPERT_MACHINE.governs("state")
class ExpertRun(models.Model):
    """One expert's part in a panel. It ends in a Segmentation of kind ``expert``, or in ``error``.

    ``not_run`` from the start, where the study lacks a sequence that it needs; ``error`` says which.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    panel_run = models.ForeignKey(PanelRun, on_delete=models.CASCADE, related_name="expert_runs")
    expert = models.CharField(max_length=100, help_text="Name in the panel's configuration.")
    model_version = models.ForeignKey(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="expert_runs"
    )
    role = models.CharField(
        max_length=10, choices=ModelStatus.choices, default=ModelStatus.ADVISER, help_text="As it was in this panel."
    )
    state = models.CharField(max_length=10, choices=ExpertState.choices, default=ExpertState.WAITING)
    runtime_s = models.FloatField(null=True, blank=True)
    device = models.CharField(max_length=100, blank=True, default="")
    segmentation = models.ForeignKey(
        "imaging.Segmentation", null=True, blank=True, on_delete=models.PROTECT, related_name="expert_runs"
    )
    error = models.CharField(max_length=500, blank=True, default="")
    environment = schema_field(
        ENVIRONMENT,
        default=dict,
        blank=True,
        help_text="What must be equal for the same mask: versions, device, threads, seed.",
    )
    notes = schema_field(NAMES, default=list, blank=True)
    sequences = schema_field(
        NAMES, default=list, blank=True, help_text="What it is given, where sequences are missing; empty: all four."
    )
    findings = schema_field(REMARKS, default=list, blank=True, help_text="What it said: text, confidence, slice_z.")
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["panel_run", "expert"]
        constraints = [
            models.UniqueConstraint(fields=["panel_run", "expert"], name="expert_once_per_panel"),
        ]

    def __str__(self) -> str:
        return f"{self.expert} {self.state}"


@FUSION_CHOICE_MACHINE.governs("state")
class FusionChoice(models.Model):
    """How one consensus of a panel came about: the automatic one first, then what people chose. Never edited once done.

    The panel itself shows the newest one that is done.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    panel_run = models.ForeignKey(PanelRun, on_delete=models.PROTECT, related_name="fusion_choices")
    automatic = models.BooleanField(default=False)
    experts = schema_field(NAMES, default=list, help_text="Names of the experts that are fused.")
    method = models.CharField(max_length=30)
    who = models.CharField(max_length=150)
    why = models.CharField(max_length=300)
    state = models.CharField(max_length=10, choices=FusionChoiceState.choices, default=FusionChoiceState.WAITING)
    error = models.CharField(max_length=500, blank=True, default="")
    segmentation = models.ForeignKey(
        "imaging.Segmentation", null=True, blank=True, on_delete=models.PROTECT, related_name="fusion_choices"
    )
    agreement = schema_field(AGREEMENT, default=dict, blank=True)
    gate = schema_field(GATE, default=dict, blank=True)
    band = models.CharField(max_length=10, choices=Band.choices, blank=True, default=Band.NONE)
    at = models.DateTimeField(default=now)
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["panel_run"], condition=Q(automatic=True), name="one_automatic_fusion_per_panel"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.method} of {', '.join(self.experts)} by {self.who}"
