"""Model versions, their standing, and every change of it on record."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.machines import StateMachine

__all__ = [
    "PROPOSAL_MACHINE",
    "ModelStatus",
    "ModelStatusChange",
    "ModelVersion",
    "ProposalState",
    "StandingProposal",
]


class ModelStatus(models.TextChoices):
    """Standing of a model version: a voter counts in the consensus and the gate, an adviser can only lower the gate."""

    VOTER = "voter"
    ADVISER = "adviser"
    DISABLED = "disabled"


class ProposalState(models.TextChoices):
    """What became of a proposal."""

    OPEN = "open"
    CONFIRMED = "confirmed"
    DISMISSED = "dismissed"


PROPOSAL_MACHINE = StateMachine(
    name="standing proposal",
    states=tuple(ProposalState.values),
    table={
        ("open", "confirm"): "confirmed",
        ("open", "dismiss"): "dismissed",
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
    minimum_mm3 = models.JSONField(
        default=dict,
        blank=True,
        help_text="Region -> the smallest island worth showing, as model.json had it when added.",
    )
    distribution = models.JSONField(
        null=True,
        blank=True,
        help_text="distribution.json as it was when added: what the model learned from looks like.",
    )
    distribution_sha256 = models.CharField(max_length=64, blank=True, default="", help_text="Of that file.")
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
    """One change of a model version's standing: from what to what, by whom, why, on what cases. Never edited."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="status_changes")
    from_status = models.CharField(max_length=10, blank=True, default="")
    to_status = models.CharField(max_length=10, choices=ModelStatus.choices)
    who = models.CharField(max_length=150)
    why = models.CharField(max_length=1000)
    evidence = models.JSONField(
        default=dict, blank=True, help_text="The evaluation it rests on: dataset, digest, figures, cases (no identity)."
    )
    at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.model_id} {self.from_status} -> {self.to_status}"


@PROPOSAL_MACHINE.governs("state")
class StandingProposal(models.Model):
    """What the figures of reviewed cases suggest for a model version. A person confirms or dismisses it; nothing else does."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="proposals")
    to_status = models.CharField(max_length=10, choices=ModelStatus.choices)
    why = models.CharField(max_length=1000)
    evidence = models.JSONField(default=dict, help_text="Region, means and the studies they were taken over.")
    state = models.CharField(max_length=10, choices=ProposalState.choices, default=ProposalState.OPEN)
    at = models.DateTimeField(default=now)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    decision = models.CharField(max_length=1000, blank=True, default="", help_text="Why, in that person's words.")

    class Meta:
        ordering = ["-at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["model"], condition=Q(state="open"), name="one_open_proposal_per_model"),
            models.CheckConstraint(
                condition=Q(state="open") | Q(decided_at__isnull=False, decided_by__isnull=False),
                name="decided_proposal_has_its_person",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model_id} -> {self.to_status}: {self.state}"
