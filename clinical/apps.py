"""Application configuration of the clinical room."""

from django.apps import AppConfig


class ClinicalConfig(AppConfig):
    """Staff, patients, orders and documents."""

    name = "clinical"
    verbose_name = "Clinical"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Load what registers itself: events, background jobs, and names for the audit view."""
        from clinical import events, labels, tasks  # noqa: F401
