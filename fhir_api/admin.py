"""Administration of the doors. Nothing here shows identity: raw messages and resources stay encrypted."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from audit.services import Actor, acting_as, record
from fhir_api.access.tokens import revoke_token
from fhir_api.delivery.standing import moved
from fhir_api.hl7v2.process import retry_message
from fhir_api.models import ApiToken, Endpoint, Hl7Message, Peer, ReceivedResource, UnlistedSender
from oncoflow_site.foundation.admin import ReadOnlyAdmin
from oncoflow_site.foundation.jobs import enqueue

__all__: list[str] = []


class RecordedAdmin(admin.ModelAdmin):
    """Configuration: every change is on the record, nothing is deleted (rows refer to it); switch it off instead."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save and record together."""
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            moves = moved(obj, form.initial["address"]) if change and isinstance(obj, Endpoint) else {}
            record(
                "peer.change",
                action="U" if change else "C",
                resource=f"{obj._meta.model_name}:{obj.pk}",
                actor=Actor.user(request.user),
                source="web",
                detail={"fields": sorted(form.changed_data), **moves},
            )


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """Tokens are made by ``create_token`` (it prints them once) and revoked here."""

    list_display = ("name", "user", "created_at", "expires_at", "revoked_at", "last_used_at")
    list_filter = ("revoked_at", "user__role")
    search_fields = ("name", "user__username")
    exclude = ("token_hash",)
    actions = ("revoke",)

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        """End the chosen tokens now."""
        with acting_as(Actor.user(request.user), source="web"):
            for row in queryset:
                revoke_token(row)
        self.message_user(request, "Revoked.", messages.SUCCESS)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Who may change tokens."""
        return request.user.has_perm("fhir_api.change_apitoken")


@admin.register(Peer)
class PeerAdmin(RecordedAdmin):
    """Senders of HL7 v2 messages."""

    list_display = (
        "name",
        "sending_application",
        "sending_facility",
        "remote_addr",
        "any_address",
        "last_message",
        "active",
    )
    list_filter = ("active", "any_address", "merges")
    search_fields = ("name", "sending_application", "sending_facility")

    @admin.display(description="Last message")
    def last_message(self, obj: Peer) -> Any:
        """When it was last heard."""
        return obj.messages.order_by("-received_at").values_list("received_at", flat=True).first()


@admin.register(UnlistedSender)
class UnlistedSenderAdmin(ReadOnlyAdmin):
    """Who was refused because nobody has made a peer of them."""

    list_display = ("sending_application", "sending_facility", "address", "messages", "first_at", "last_at")
    search_fields = ("sending_application", "sending_facility", "address")
    actions = ("make_peer",)

    @admin.action(description="Make a peer of it", permissions=["peer"])
    def make_peer(self, request: HttpRequest, queryset: QuerySet[UnlistedSender]) -> None:
        """A peer of that name and address, switched off until somebody has looked at its settings."""
        made = 0
        for row in queryset:
            with transaction.atomic():
                name = f"{row.sending_application} {row.sending_facility}".strip() or str(row.address)
                peer, new = Peer.objects.get_or_create(
                    sending_application=row.sending_application,
                    sending_facility=row.sending_facility,
                    defaults={"name": name[:100], "remote_addr": row.address, "active": False},
                )
                if new:
                    made += 1
                    record(
                        "peer.change",
                        action="C",
                        resource=f"peer:{peer.pk}",
                        actor=Actor.user(request.user),
                        source="web",
                        detail={"from": "unlisted sender"},
                    )
                row.delete()
        self.message_user(request, f"{made} made. Look at each, then make it active.", messages.SUCCESS)

    def has_peer_permission(self, request: HttpRequest) -> bool:
        """Who may add peers."""
        return request.user.has_perm("fhir_api.add_peer")


@admin.register(Endpoint)
class EndpointAdmin(RecordedAdmin):
    """Receivers of reports. The token is set by ``add_endpoint``; the name is part of delivery keys and stays."""

    list_display = ("name", "transport", "address", "active")
    list_filter = ("transport", "active")
    search_fields = ("name", "address")

    def get_readonly_fields(self, request: HttpRequest, obj: Endpoint | None = None) -> tuple[str, ...]:
        """An endpoint keeps its name and transport."""
        return ("name", "transport") if obj else ()


@admin.register(Hl7Message)
class Hl7MessageAdmin(ReadOnlyAdmin):
    """Messages as received; failed ones can be processed again."""

    list_display = ("received_at", "message_type", "peer", "control_id", "ack_code", "state", "error")
    list_filter = ("state", "message_type", "ack_code", "peer")
    search_fields = ("control_id", "id")
    date_hierarchy = "received_at"
    exclude = ("raw", "ack", "patient_index")
    actions = ("process_again",)

    @admin.action(description="Process again", permissions=["process"])
    def process_again(self, request: HttpRequest, queryset: QuerySet[Hl7Message]) -> None:
        """Failed and ignored messages only."""
        count = 0
        with acting_as(Actor.user(request.user), source="web"):
            for row in queryset:
                with transaction.atomic():
                    if retry_message(row):
                        count += 1
                        key = (
                            f"hl7:{row.id}:again:{request.user.pk}:{row.processed_at or row.received_at:%Y%m%d%H%M%S%f}"
                        )
                        enqueue(
                            "fhir_api.process_hl7",
                            subject=f"message:{row.id}",
                            key=key,
                            kwargs={"message_id": row.id},
                        )
        self.message_user(request, f"{count} to be processed again.", messages.SUCCESS)

    def has_process_permission(self, request: HttpRequest) -> bool:
        """Who may change messages."""
        return request.user.has_perm("fhir_api.change_hl7message")


@admin.register(ReceivedResource)
class ReceivedResourceAdmin(ReadOnlyAdmin):
    """FHIR resources as received."""

    list_display = ("created_at", "resource_type", "resource_id", "version", "patient", "peer")
    list_filter = ("resource_type", "peer")
    search_fields = ("resource_id", "patient__pseudonym")
    exclude = ("raw", "identifier_index")
