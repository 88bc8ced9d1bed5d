"""What the foundation keeps: jobs, events, deliveries, stored objects, data keys, workers' signs of life."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.machines import StateMachine

__all__ = [
    "DELIVERY_MACHINE",
    "ENDPOINT_MACHINE",
    "JOB_MACHINE",
    "DataKey",
    "Delivery",
    "DeliveryAttempt",
    "DeliveryState",
    "EndpointState",
    "EndpointStatus",
    "Event",
    "Job",
    "JobState",
    "LegalHold",
    "StoredObject",
    "WorkerHeartbeat",
]


class JobState(models.TextChoices):
    """Life of a job. ``failed`` will not succeed as it stands; ``dead`` used up its attempts."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"


JOB_MACHINE = StateMachine(
    name="job",
    states=tuple(JobState.values),
    table={
        ("waiting", "claim"): "running",
        ("running", "finish"): "done",
        ("running", "postpone"): "waiting",  # a transient error, or a lost lease with attempts left
        ("running", "refuse"): "failed",
        ("running", "exhaust"): "dead",
        ("waiting", "cancel"): "cancelled",
        ("running", "cancel"): "cancelled",
        ("failed", "retry"): "waiting",
        ("dead", "retry"): "waiting",
        ("cancelled", "retry"): "waiting",
    },
)


class Event(models.Model):
    """A fact, recorded in the same transaction as what it tells. ``payload`` holds ids only."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=100, db_index=True)
    subject = models.CharField(max_length=200, db_index=True)
    payload = models.JSONField(default=dict)
    request_id = models.CharField(max_length=64, blank=True, default="")
    created_at = models.DateTimeField(default=now, db_index=True)
    dispatched = models.BooleanField(default=False, help_text="The jobs that follow were created with it.")

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


@JOB_MACHINE.governs("state")
class Job(models.Model):
    """One unit of background work. The row is the truth; the queue only wakes somebody up to look at it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=100, db_index=True)
    queue = models.CharField(max_length=20)
    subject = models.CharField(max_length=200, db_index=True)
    idempotency_key = models.CharField(max_length=255, unique=True)
    kwargs = models.JSONField(default=dict, help_text="Ids only.")
    event = models.ForeignKey(Event, null=True, blank=True, on_delete=models.SET_NULL, related_name="jobs")
    lock = models.CharField(
        max_length=200, blank=True, default="", help_text="Jobs of one lock run one after another; empty: none."
    )
    state = models.CharField(max_length=10, choices=JobState.choices, default=JobState.WAITING)
    priority = models.SmallIntegerField(default=0, help_text="Higher runs earlier.")
    attempts = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField(default=5)
    run_after = models.DateTimeField(default=now)
    woken_at = models.DateTimeField(null=True, blank=True, help_text="When the queue was last told.")
    lease_until = models.DateTimeField(null=True, blank=True)
    lease_token = models.UUIDField(null=True, blank=True)
    fence = models.PositiveIntegerField(default=0, help_text="Grows with every claim; an older attempt cannot write.")
    progress = models.FloatField(default=0.0, help_text="0 to 1.")
    progress_text = models.CharField(max_length=200, blank=True, default="")
    progress_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True, default="")
    result = models.JSONField(null=True, blank=True)
    request_id = models.CharField(max_length=64, blank=True, default="")
    created_at = models.DateTimeField(default=now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["queue", "state", "run_after"], name="job_due"),
            models.Index(fields=["lease_until"], name="job_lease", condition=Q(state="running")),
            models.Index(fields=["state", "created_at"], name="job_state_created"),
            models.Index(fields=["lock", "created_at"], name="job_lock_line", condition=~Q(lock="")),
        ]
        constraints = [
            # The database itself lets at most one job of a lock run, whoever claims at the same moment.
            models.UniqueConstraint(
                fields=["lock"], condition=Q(state="running") & ~Q(lock=""), name="job_lock_held_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.state} {self.id}"

    @property
    def finished(self) -> bool:
        """True when nothing more will happen unless a person asks for it."""
        return self.state not in (JobState.WAITING, JobState.RUNNING)


class DataKey(models.Model):
    """The Tink keyset of one subject, wrapped by the master key. Destroying it erases all that it encrypted."""

    subject = models.CharField(max_length=200, unique=True)
    wrapped = models.BinaryField(help_text="Tink encrypted keyset; empty once destroyed.")
    master_key_id = models.BigIntegerField(db_index=True)
    created_at = models.DateTimeField(default=now)
    rewrapped_at = models.DateTimeField(null=True, blank=True)
    destroyed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["subject"]

    def __str__(self) -> str:
        return self.subject


class StoredObject(models.Model):
    """Encrypted bytes in the object storage, under a random name."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    subject = models.CharField(max_length=200, db_index=True, help_text="Whose data key encrypts it.")
    kind = models.CharField(max_length=50)
    storage_name = models.CharField(max_length=120, unique=True)
    size = models.BigIntegerField(help_text="Bytes of plaintext.")
    sha256 = models.CharField(max_length=64, help_text="Of the plaintext, hexadecimal.")
    content_type = models.CharField(max_length=100, default="application/octet-stream")
    created_at = models.DateTimeField(default=now)
    removed_at = models.DateTimeField(
        null=True, blank=True, help_text="When the retention policy had its bytes deleted."
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["kind", "created_at"], name="object_kind_created")]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class LegalHold(models.Model):
    """Nothing of ``subject`` is removed by the retention policy while this row is there."""

    subject = models.CharField(max_length=200, unique=True, help_text="As in StoredObject.subject, e.g. patient:ID.")
    reason = models.CharField(max_length=300, help_text="No identity.")
    placed_by = models.CharField(max_length=150)
    placed_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["placed_at"]

    def __str__(self) -> str:
        return f"hold on {self.subject}"


class DeliveryState(models.TextChoices):
    """Life of a delivery.

    ``failed``: refused by the peer for good; ``dead``: attempts used up. Both hold their lane.
    """

    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    DEAD = "dead"
    ABANDONED = "abandoned"


DELIVERY_MACHINE = StateMachine(
    name="delivery",
    states=tuple(DeliveryState.values),
    table={
        ("waiting", "send"): "sending",
        ("sending", "send"): "sending",  # the attempt before was killed between sending and writing it down
        ("sending", "accept"): "delivered",
        ("sending", "postpone"): "waiting",
        ("sending", "refuse"): "failed",
        ("sending", "exhaust"): "dead",
        ("failed", "resend"): "waiting",
        ("dead", "resend"): "waiting",
        ("waiting", "abandon"): "abandoned",
        ("failed", "abandon"): "abandoned",
        ("dead", "abandon"): "abandoned",
    },
)


@DELIVERY_MACHINE.governs("state")
class Delivery(models.Model):
    """One thing on its way to one endpoint. Rows of one (endpoint, subject) form a lane and go strictly in sequence."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    endpoint = models.CharField(max_length=100)
    transport = models.CharField(max_length=50)
    subject = models.CharField(max_length=200)
    sequence = models.PositiveBigIntegerField()
    idempotency_key = models.CharField(max_length=255, unique=True)
    payload_object = models.ForeignKey(StoredObject, null=True, blank=True, on_delete=models.PROTECT)
    headers = models.JSONField(default=dict, help_text="For the transport; no identity.")
    state = models.CharField(max_length=10, choices=DeliveryState.choices, default=DeliveryState.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    wakeups = models.PositiveIntegerField(default=0, help_text="Jobs made for it so far.")
    next_attempt_at = models.DateTimeField(default=now)
    last_error = models.CharField(max_length=500, blank=True, default="")
    response_code = models.CharField(max_length=50, blank=True, default="")
    request_id = models.CharField(max_length=64, blank=True, default="")
    created_at = models.DateTimeField(default=now)
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "subject", "sequence"], name="delivery_lane_sequence"),
        ]
        indexes = [models.Index(fields=["state", "next_attempt_at"], name="delivery_due")]

    def __str__(self) -> str:
        return f"{self.transport} to {self.endpoint} {self.state} {self.id}"


class DeliveryAttempt(models.Model):
    """One attempt at one delivery and how it ended. Rows are only added: sending a delivery again keeps its history."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="history")
    at = models.DateTimeField(default=now)
    outcome = models.CharField(max_length=10, help_text="State of the delivery after it.")
    response_code = models.CharField(max_length=50, blank=True, default="")
    error = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["delivery", "id"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.outcome} {self.response_code} {self.error}".rstrip()


class EndpointState(models.TextChoices):
    """Whether deliveries may go to an endpoint."""

    UP = "up"
    STOPPED = "stopped", "stopped, tried again from time to time"
    PROBING = "probing", "stopped, one delivery is on its way to find out"


ENDPOINT_MACHINE = StateMachine(
    name="endpoint",
    states=tuple(EndpointState.values),
    table={
        ("up", "stop"): "stopped",
        ("probing", "stop"): "stopped",
        ("stopped", "probe"): "probing",
        ("probing", "probe"): "probing",  # the probe before was killed
        ("stopped", "resume"): "up",
        ("probing", "resume"): "up",
    },
)


@ENDPOINT_MACHINE.governs("state")
class EndpointStatus(models.Model):
    """The way to one endpoint: a circuit breaker. No row means nothing has ever gone wrong there."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    endpoint = models.CharField(max_length=100, unique=True)
    state = models.CharField(max_length=10, choices=EndpointState.choices, default=EndpointState.UP)
    reason = models.CharField(max_length=500, blank=True, default="", help_text="What stopped it last.")
    code = models.CharField(max_length=50, blank=True, default="")
    stopped_at = models.DateTimeField(null=True, blank=True)
    next_probe_at = models.DateTimeField(default=now)
    probes = models.PositiveIntegerField(default=0, help_text="Probes that failed since it was stopped.")
    alarmed = models.BooleanField(default=False, help_text="A person was called about this stop.")
    failures = models.PositiveIntegerField(default=0, help_text="Deliveries that failed in a row while it was up.")
    last_failed = models.UUIDField(null=True, blank=True, help_text="The delivery that failed last.")

    class Meta:
        ordering = ["endpoint"]
        verbose_name_plural = "endpoint statuses"

    def __str__(self) -> str:
        return f"{self.endpoint} {self.state}"


class WorkerHeartbeat(models.Model):
    """A consumer's sign of life, one row a process; the health check and the system page read it."""

    worker = models.CharField(max_length=120, unique=True, help_text="host:pid:queue")
    queue = models.CharField(max_length=20, db_index=True)
    started_at = models.DateTimeField(default=now)
    beat_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["queue", "worker"]

    def __str__(self) -> str:
        return self.worker
