"""Application configuration of the foundation."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class FoundationConfig(AppConfig):
    """Registers the foundation with Django and collects every room's background tasks."""

    name = "oncoflow_site.foundation"
    label = "foundation"
    verbose_name = "Foundation"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import each room's ``tasks`` module, so that every job kind and event is known to every process."""
        from oncoflow_site.foundation import checks  # noqa: F401  (registers the system checks)

        autodiscover_modules("tasks")
