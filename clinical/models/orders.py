"""Imaging orders."""

from __future__ import annotations

import uuid

from django.db import models

from clinical.models.patients import Patient
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.machines import StateMachine

__all__ = ["ORDER_MACHINE", "Order", "OrderPriority", "OrderStatus"]


class OrderStatus(models.TextChoices):
    """Where an order stands."""

    REQUESTED = "requested", "requested"
    IN_PROGRESS = "in_progress", "in progress"
    COMPLETED = "completed", "completed"
    CANCELLED = "cancelled", "cancelled"


class OrderPriority(models.TextChoices):
    """FHIR R4 request-priority, as far as HL7 v2 TQ1-9 maps to it (S, A, R)."""

    ROUTINE = "routine", "routine"
    ASAP = "asap", "as soon as possible"
    STAT = "stat", "at once"


ORDER_MACHINE = StateMachine(
    name="order",
    states=tuple(OrderStatus.values),
    table={
        ("requested", "start"): "in_progress",
        ("requested", "change"): "requested",
        ("in_progress", "change"): "in_progress",
        ("requested", "cancel"): "cancelled",
        ("in_progress", "cancel"): "cancelled",
        ("requested", "complete"): "completed",
        ("in_progress", "complete"): "completed",
        ("in_progress", "release"): "requested",  # its study turned out to belong to another order
        ("completed", "reopen"): "in_progress",  # a late instance, or an amended report
    },
)


@ORDER_MACHINE.governs("status")
class Order(models.Model):
    """What the EMR asked for. Numbers, reason and provider are in ``ciphertext`` (`identity.OrderIdentity`).

    ``key_subject`` names the data key that encrypts it: that of the patient under whom it came, whomever they are merged
    into later.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    patient = models.ForeignKey(Patient, on_delete=models.PROTECT, related_name="orders")
    status = models.CharField(max_length=12, choices=OrderStatus.choices, default=OrderStatus.REQUESTED)
    priority = models.CharField(max_length=8, choices=OrderPriority.choices, default=OrderPriority.ROUTINE)
    procedure_code = models.CharField(max_length=100, blank=True, default="")
    procedure_text = models.CharField(max_length=200, blank=True, default="")
    requested_at = models.DateTimeField(default=now)
    source = models.CharField(max_length=20, help_text="mllp, fhir, web or command")
    peer = models.CharField(max_length=150, blank=True, default="", help_text="Which connected system placed it.")
    accession_index = models.CharField(max_length=64, null=True, blank=True, unique=True)
    placer_index = models.CharField(max_length=64, null=True, blank=True, db_index=True)
    filler_index = models.CharField(max_length=64, null=True, blank=True, unique=True)
    study_uid_index = models.CharField(max_length=64, null=True, blank=True, db_index=True)
    ciphertext = models.BinaryField()
    key_subject = models.CharField(max_length=60, default="", editable=False)
    created_at = models.DateTimeField(default=now)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-requested_at", "-id"]
        indexes = [models.Index(fields=["patient", "status"], name="order_patient_status")]

    def __str__(self) -> str:
        return f"{self.procedure_text or self.procedure_code or 'order'} {self.status} {self.id}"
