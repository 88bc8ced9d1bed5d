"""Application configuration of the audit room."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class AuditConfig(AppConfig):
    """Collects the event codes that the rooms declare in their ``audit_codes`` modules."""

    name = "audit"
    verbose_name = "Audit"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect the signals and import every room's ``audit_codes``."""
        from audit import signals  # noqa: F401

        autodiscover_modules("audit_codes")
