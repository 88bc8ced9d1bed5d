"""Application configuration of the inference room."""

from django.apps import AppConfig


class InferenceConfig(AppConfig):
    """The panel of experts: registry, runs, fusion, agreement, gate.

    Its background tasks (``inference.tasks``) are collected by the foundation when Django starts. Nothing here imports
    torch: the experts live in the processes of the supervisor.
    """

    name = "inference"
    label = "inference"
    verbose_name = "Inference"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make the room's audit codes, events and jobs known to every process."""
        from inference import audit_codes, events, tasks  # noqa: F401
