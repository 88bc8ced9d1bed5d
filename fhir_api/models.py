"""What the FHIR and HL7 v2 doors keep: tokens, peers, endpoints, messages and resources as they were received."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.machines import StateMachine
from oncoflow_site.foundation.models import StoredObject

__all__ = [
    "HL7_MESSAGE_MACHINE",
    "ApiToken",
    "Endpoint",
    "Hl7Message",
    "Hl7MessageState",
    "Peer",
    "ReceivedResource",
    "Transport",
    "UnlistedSender",
]


class ApiToken(models.Model):
    """A bearer token (RFC 6750) of one account. Only its SHA-256 is kept: the token has 256 random bits, so no salt."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="api_tokens")
    name = models.CharField(max_length=100, help_text="What uses it, e.g. the name of the sending system.")
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=list, help_text="SMART 2 scopes, e.g. system/DocumentReference.crs")
    created_at = models.DateTimeField(default=now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["name", "-created_at"]
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="api_token_user_name")]

    def __str__(self) -> str:
        return self.name

    def usable(self, at: datetime | None = None) -> bool:
        """True while neither revoked nor expired and its account is active."""
        at = at or now()
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > at) and self.user.is_active


class Peer(models.Model):
    """A system that may send HL7 v2 messages, and how its messages are read. Who is not listed is refused with AR and nothing
    is processed."""

    class Merges(models.TextChoices):
        """What becomes of a merge that this system announces."""

        APPLY = "apply", "made, unless two of name, birth date and sex contradict it: then a person decides"
        ALWAYS = "always", "made, whatever contradicts it"
        REVIEW = "review", "a person decides"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=100, unique=True)
    sending_application = models.CharField(max_length=227, help_text="MSH-3.1; * stands for any text.")
    sending_facility = models.CharField(max_length=227, help_text="MSH-4.1; * stands for any text.")
    remote_addr = models.GenericIPAddressField(
        "address",
        null=True,
        blank=True,
        help_text="The address it sends from. Empty: none, unless any address is allowed.",
    )
    any_address = models.BooleanField(
        default=False, help_text="Whoever knows its MSH-3 and MSH-4 may send as it. The demo allows it for every peer."
    )
    certificate_sha256 = models.CharField(
        max_length=64,
        blank=True,
        default="",
        help_text="SHA-256 of the client certificate (DER, hexadecimal) that it must show over TLS. Empty: none asked for.",
    )
    processing_ids = models.CharField(
        max_length=3, default="P", help_text="MSH-11 values taken: of P, T and D. The demo takes all three."
    )
    default_authority = models.CharField(
        max_length=200,
        blank=True,
        default="",
        help_text="Assigning authority of its patient numbers that name none (12345^^^^MR). Empty: such numbers are refused.",
    )
    authority_names = models.JSONField(
        default=dict, blank=True, help_text="Names this system alone uses: its name or OID -> assigning authority here."
    )
    confirms_identity = models.BooleanField(default=True, help_text="Its registrations (ADT) confirm who a patient is.")
    registers_by_order = models.BooleanField(
        default=True,
        help_text="An order of an unknown patient makes a provisional one. Off: only the registration does.",
    )
    refuses_unused = models.BooleanField(
        default=False,
        help_text="Message types that nothing here uses are answered with AR. Off: kept, and answered with AA.",
    )
    merges = models.CharField(max_length=6, choices=Merges.choices, default=Merges.APPLY)
    order_modalities = models.JSONField(
        default=list, blank=True, help_text="OBR-24 or IPC-5 of orders for us, e.g. MR, RAD. Empty: any."
    )
    order_codes = models.JSONField(
        default=list, blank=True, help_text="OBR-4.1 of orders for us; * stands for any text. Empty: any."
    )
    default_charset = models.CharField(
        max_length=40, blank=True, default="", help_text="HL7 table 0211 name, used where MSH-18 is empty."
    )
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["sending_application", "sending_facility"], name="peer_application_facility"
            )
        ]

    def __str__(self) -> str:
        return self.name


class UnlistedSender(models.Model):
    """Who sent HL7 v2 messages without being a peer: refused with AR, nothing kept but this. A peer is made of it by a person.

    The names are what a stranger wrote, cut to plain short text.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    address = models.GenericIPAddressField()
    sending_application = models.CharField(max_length=60, blank=True, help_text="MSH-3.1")
    sending_facility = models.CharField(max_length=60, blank=True, help_text="MSH-4.1")
    messages = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField(default=now)
    last_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-last_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["address", "sending_application", "sending_facility"], name="unlisted_sender_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.sending_application} {self.sending_facility} at {self.address}"


class Transport(models.TextChoices):
    """How an endpoint is spoken to; the names are those registered with the outbox."""

    FHIR = "fhir", "FHIR R4 transaction over HTTP"
    MLLP = "mllp", "HL7 v2 over MLLP"


class Endpoint(models.Model):
    """Where reports are delivered to."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=100, unique=True)
    transport = models.CharField(max_length=10, choices=Transport.choices)
    address = models.CharField(max_length=500, help_text="FHIR base URL, or host:port for MLLP.")
    credential = models.BinaryField(null=True, blank=True, editable=False, help_text="Encrypted bearer token.")
    capabilities = models.JSONField(
        default=dict, blank=True, help_text="receiving_application, receiving_facility, charset, tls, ca, ..."
    )
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def key_subject(self) -> str:
        """The data-key subject that encrypts this endpoint's credential."""
        return f"endpoint:{self.id}"


class Hl7MessageState(models.TextChoices):
    """Life of a received message."""

    STORED = "stored", "stored, to be processed"
    HELD = "held", "waits for a person to decide whose it is"
    PROCESSED = "processed"
    FAILED = "failed"
    IGNORED = "ignored", "kept, nothing to do with it"
    REFUSED = "refused", "answered with a rejection"


HL7_MESSAGE_MACHINE = StateMachine(
    name="HL7 message",
    states=tuple(Hl7MessageState.values),
    table={
        ("stored", "process"): "processed",
        ("stored", "fail"): "failed",
        ("stored", "ignore"): "ignored",
        ("stored", "hold"): "held",
        ("held", "retry"): "stored",
        ("failed", "retry"): "stored",
        ("ignored", "retry"): "stored",
    },
)


@HL7_MESSAGE_MACHINE.governs("state")
class Hl7Message(models.Model):
    """An HL7 v2 message as received, durable before it was acknowledged.

    ``(msh3, msh4, control_id, sha256)`` identifies a message: the same again gets the stored acknowledgement and
    nothing happens twice; the same MSH-10 with other bytes is another message.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    msh3 = models.CharField(max_length=227, blank=True, help_text="MSH-3 as received.")
    msh4 = models.CharField(max_length=227, blank=True, help_text="MSH-4 as received.")
    control_id = models.CharField(max_length=199, blank=True, help_text="MSH-10")
    sha256 = models.CharField(max_length=64, help_text="Of the bytes between the frame characters, hexadecimal.")
    message_type = models.CharField(max_length=32, blank=True, help_text="MSH-9 as CODE^TRIGGER")
    peer = models.ForeignKey(Peer, null=True, blank=True, on_delete=models.PROTECT, related_name="messages")
    raw = models.ForeignKey(StoredObject, on_delete=models.PROTECT, related_name="+")
    size = models.PositiveIntegerField(default=0)
    ack = models.BinaryField(editable=False, help_text="The answer, byte for byte; carries no identity.")
    ack_code = models.CharField(max_length=2)
    patient_index = models.CharField(
        max_length=64, blank=True, default="", editable=False, help_text="Keyed hash of PID-3: the lane kept in order."
    )
    patient = models.ForeignKey(
        "clinical.Patient", null=True, blank=True, on_delete=models.SET_NULL, related_name="hl7_messages"
    )
    state = models.CharField(max_length=10, choices=Hl7MessageState.choices)
    identity_conflict = models.ForeignKey(
        "clinical.IdentityConflict",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="hl7_messages",
        help_text="What a person must decide before it can be processed.",
    )
    attempts = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=500, blank=True, default="", help_text="Free of identity.")
    request_id = models.CharField(max_length=64, blank=True, default="")
    received_at = models.DateTimeField(default=now)
    processed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-received_at", "-id"]
        verbose_name = "HL7 message"
        constraints = [
            models.UniqueConstraint(fields=["msh3", "msh4", "control_id", "sha256"], name="hl7_message_identity")
        ]
        indexes = [
            models.Index(fields=["patient_index", "received_at"], name="hl7_lane", condition=Q(state="stored")),
            models.Index(fields=["state", "received_at"], name="hl7_state"),
        ]

    def __str__(self) -> str:
        return f"{self.message_type} {self.id}"


class ReceivedResource(models.Model):
    """A FHIR resource as a client sent it, byte for byte. Rows are only ever added."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    resource_type = models.CharField(max_length=64)
    resource_id = models.UUIDField(help_text="The logical id under which it is read.")
    version = models.PositiveIntegerField(default=1)
    raw = models.ForeignKey(StoredObject, on_delete=models.PROTECT, related_name="+")
    sha256 = models.CharField(max_length=64)
    identifier_index = models.CharField(
        max_length=64, null=True, blank=True, editable=False, help_text="Keyed hash of the business identifier."
    )
    patient = models.ForeignKey("clinical.Patient", on_delete=models.PROTECT, related_name="received_resources")
    token = models.ForeignKey(ApiToken, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    peer = models.CharField(max_length=150, help_text="Account that sent it.")
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["resource_type", "resource_id", "version"], name="received_resource_version"
            ),
            models.UniqueConstraint(
                fields=["peer", "resource_type", "identifier_index"],
                name="received_resource_identifier",
                condition=Q(identifier_index__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.resource_type}/{self.resource_id}/_history/{self.version}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert; raises `ValidationError` for a row that exists."""
        if not self._state.adding:
            raise ValidationError("A received resource is never changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Never; raises `ValidationError`."""
        raise ValidationError("A received resource is never deleted.")
