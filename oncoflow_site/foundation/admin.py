"""Admin of the foundation: look at everything, change nothing but by the named actions. No page shows identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from oncoflow_site.foundation import jobs, outbox
from oncoflow_site.foundation.errors import IllegalMove
from oncoflow_site.foundation.models import DataKey, Delivery, Event, Job, StoredObject, WorkerHeartbeat
from oncoflow_site.foundation.signals import operator_acted


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that only services write: nobody adds, changes or deletes them by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False


class InspectionAdmin(ReadOnlyAdmin):
    """Such rows with every field shown but the excluded ones, and named actions for those who may change them."""

    list_per_page = 50
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """All fields of the model but the excluded ones."""
        hidden = set(self.exclude or ())
        return [field.name for field in self.model._meta.fields if field.name not in hidden]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As granted: it lets the actions be seen, while no field can be edited."""
        return super(ReadOnlyAdmin, self).has_change_permission(request, obj)


@admin.register(Job)
class JobAdmin(InspectionAdmin):
    """Background jobs; "retry" lets ended ones run again."""

    list_display = ["created_at", "kind", "queue", "state", "attempts", "progress_text", "subject", "error"]
    list_filter = ["state", "queue", "kind"]
    search_fields = ["id", "subject", "request_id", "kind"]
    date_hierarchy = "created_at"
    actions = ["retry", "cancel"]
    exclude = ["lease_token"]

    @admin.action(description="Retry the selected failed, dead or cancelled jobs", permissions=["change"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Give each selected job a new start."""
        done = self._each(request, queryset, "retry", jobs.retry)
        self.message_user(request, f"{done} of {len(queryset)} jobs run again.")

    @admin.action(description="Cancel the selected waiting or running jobs", permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Cancel each selected job."""
        done = self._each(request, queryset, "cancel", jobs.cancel)
        self.message_user(request, f"{done} of {len(queryset)} jobs cancelled.")

    def _each(self, request: HttpRequest, queryset: QuerySet[Job], verb: str, action: Callable[[Any], bool]) -> int:
        done = 0
        for row in queryset:
            with transaction.atomic():
                moved = action(row.pk)
                operator_acted.send(type(self), request=request, verb=verb, resource=f"job:{row.pk}", moved=moved)
            done += moved
        return done


@admin.register(Event)
class EventAdmin(InspectionAdmin):
    """What happened."""

    list_display = ["created_at", "kind", "subject", "request_id"]
    list_filter = ["kind"]
    search_fields = ["id", "subject", "request_id"]
    date_hierarchy = "created_at"


@admin.register(Delivery)
class DeliveryAdmin(InspectionAdmin):
    """The outbox and its dead letters; "resend" tries again, "abandon" lets the lane go on."""

    list_display = ["created_at", "endpoint", "transport", "state", "attempts", "response_code", "last_error"]
    list_filter = ["state", "endpoint", "transport"]
    search_fields = ["id", "subject", "request_id", "idempotency_key"]
    date_hierarchy = "created_at"
    actions = ["resend", "abandon"]

    def _each(
        self, request: HttpRequest, queryset: QuerySet[Delivery], verb: str, action: Callable[[Any], Any], done: str
    ) -> None:
        for row in queryset:
            told = {"request": request, "verb": verb, "resource": f"delivery:{row.pk}"}
            try:
                with transaction.atomic():
                    action(row)
                    operator_acted.send(type(self), moved=True, **told)
                self.message_user(request, f"{row.pk}: {done}.")
            except IllegalMove as error:
                operator_acted.send(type(self), moved=False, **told)
                self.message_user(request, f"{row.pk}: {error}", messages.WARNING)

    @admin.action(description="Send the selected failed or dead deliveries again", permissions=["change"])
    def resend(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """Resend each."""
        self._each(request, queryset, "resend", outbox.resend, "will be sent again")

    @admin.action(description="Abandon the selected deliveries (for ever)", permissions=["change"])
    def abandon(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """Abandon each."""
        self._each(request, queryset, "abandon", outbox.abandon, "abandoned")


@admin.register(StoredObject)
class StoredObjectAdmin(InspectionAdmin):
    """What is in the object storage; never the bytes."""

    list_display = ["created_at", "kind", "content_type", "size", "subject"]
    list_filter = ["kind", "content_type"]
    search_fields = ["id", "subject", "sha256"]
    date_hierarchy = "created_at"


@admin.register(DataKey)
class DataKeyAdmin(InspectionAdmin):
    """Data keys: which exist, wrapped by which master key, which were destroyed; never the key."""

    list_display = ["subject", "master_key_id", "created_at", "rewrapped_at", "destroyed_at"]
    list_filter = ["master_key_id", ("destroyed_at", admin.EmptyFieldListFilter)]
    search_fields = ["subject"]
    exclude = ["wrapped"]


@admin.register(WorkerHeartbeat)
class WorkerHeartbeatAdmin(InspectionAdmin):
    """Workers and when they last showed."""

    list_display = ["worker", "queue", "started_at", "beat_at"]
    list_filter = ["queue"]
