"""Application configuration of the imaging room."""

from django.apps import AppConfig


class ImagingConfig(AppConfig):
    """Its jobs are collected from ``imaging.tasks`` by the foundation."""

    name = "imaging"
    label = "imaging"
    verbose_name = "Imaging"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Declare events and jobs, so that every process knows them."""
        from imaging import events, tasks  # noqa: F401
