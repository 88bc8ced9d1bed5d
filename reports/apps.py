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
        from reports import audit_codes, events, tasks  # noqa: F401
