"""Application configuration of the reports room."""

from django.apps import AppConfig


class ReportsConfig(AppConfig):
    """Registers the reports room with Django."""

    name = "reports"
    label = "reports"
    verbose_name = "Reports"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make the room's events and jobs known to the process."""
        from clinical.patients import moving
        from oncoflow_site.foundation import retention
        from reports import audit_codes, events, tasks  # noqa: F401
        from reports.retention import rests_on

        moving.moves_with_patient("reports.Report", name="reports")
        retention.protect("issued reports", rests_on)
