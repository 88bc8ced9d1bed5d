"""What the inference room keeps: model versions and their standing, panels and the experts' parts in them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.machines import StateMachine

__all__ = [
    "EXPERT_MACHINE",
    "PANEL_MACHINE",
    "Band",
    "ExpertRun",
    "ExpertState",
    "ModelStatus",
    "ModelStatusChange",
    "ModelVersion",
    "PanelRun",
    "PanelState",
]


class ModelStatus(models.TextChoices):
    """Standing of a model version: a voter counts in the consensus and the gate, an adviser can only lower the gate."""

    VOTER = "voter"
    ADVISER = "adviser"
    DISABLED = "disabled"


class PanelState(models.TextChoices):
    """Life of a panel."""

    WAITING = "waiting"
    RUNNING = "running"
    CONCLUDED = "concluded"
    FAILED = "failed"


class ExpertState(models.TextChoices):
    """Life of one expert's part in a panel."""

    WAITING = "waiting"
    RUNNING = "running"
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
    },
)


class ModelVersion(models.Model):
    """One set of weights of one model. ``sha256`` covers every file of the set, so other weights are another row."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=100)
    version = models.CharField(max_length=50)
    sha256 = models.CharField(max_length=64, help_text="Digest over the digests of its files, hexadecimal.")
    architecture = models.CharField(max_length=200)
    kind = models.CharField(max_length=30, help_text="Which expert runs it: nnunet, sam, vlm.")
    status = models.CharField(max_length=10, choices=ModelStatus.choices, default=ModelStatus.ADVISER)
    status_reason = models.CharField(max_length=1000, blank=True, default="")
    evaluation = models.JSONField(default=dict, blank=True, help_text="Dice per region on held-out cases.")
    weights_dir = models.CharField(max_length=500)
    demo_only = models.BooleanField(default=False, help_text="Trained on simulated patients only.")
    registered_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["name", "-registered_at"]
        constraints = [
            models.UniqueConstraint(fields=["name", "version", "sha256"], name="model_version_once"),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class ModelStatusChange(models.Model):
    """One change of a model version's standing: from what to what, by whom, why. Never edited."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="status_changes")
    from_status = models.CharField(max_length=10, blank=True, default="")
    to_status = models.CharField(max_length=10, choices=ModelStatus.choices)
    who = models.CharField(max_length=150)
    why = models.CharField(max_length=1000)
    at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.model_id} {self.from_status} -> {self.to_status}"


class PanelRun(models.Model):
    """All experts over one set of volumes of one study."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey("imaging.Study", on_delete=models.PROTECT, related_name="panel_runs")
    volume_set = models.ForeignKey("imaging.VolumeSet", on_delete=models.PROTECT, related_name="panel_runs")
    state = models.CharField(max_length=10, choices=PanelState.choices, default=PanelState.WAITING)
    fusion = models.CharField(max_length=30, blank=True, default="", help_text="How the masks were fused.")
    agreement = models.JSONField(default=dict, blank=True)
    gate = models.JSONField(default=dict, blank=True)
    band = models.CharField(max_length=10, choices=Band.choices, blank=True, default=Band.NONE)
    consensus = models.ForeignKey(
        "imaging.Segmentation", null=True, blank=True, on_delete=models.PROTECT, related_name="panel_runs"
    )
    disagreement = models.ForeignKey(
        "foundation.StoredObject", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    thresholds = models.JSONField(default=dict, blank=True)
    reasons = models.JSONField(default=list, blank=True)
    demo = models.BooleanField(default=False, help_text="A vote in it was earned on simulated patients.")
    started_at = models.DateTimeField(default=now)
    concluded_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-started_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["volume_set"], name="one_panel_per_volume_set"),
            models.CheckConstraint(
                condition=~Q(state="concluded") | Q(concluded_at__isnull=False), name="concluded_panel_has_its_time"
            ),
        ]

    def __str__(self) -> str:
        return f"panel {self.id} {self.state}"


class ExpertRun(models.Model):
    """One expert's part in a panel. It ends in a Segmentation of kind ``expert``, or in ``error``."""

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
    notes = models.JSONField(default=list, blank=True)
    findings = models.JSONField(default=list, blank=True, help_text="What it said: text, confidence, slice_z.")
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["panel_run", "expert"]
        constraints = [
            models.UniqueConstraint(fields=["panel_run", "expert"], name="expert_once_per_panel"),
        ]

    def __str__(self) -> str:
        return f"{self.expert} {self.state}"
