"""Run the inference supervisor: one resident process for each expert of the panel. Ends on SIGTERM."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.registry.models import panel_specs
from inference.supervisor.server import SupervisorConfig, serve, specs_from


class Command(BaseCommand):
    """``manage.py inference_supervisor``"""

    help = "Run the experts of the panel in resident processes, behind a local socket."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until SIGTERM or SIGINT."""
        try:
            experts = specs_from(panel_specs(), threads=int(settings.ONCOFLOW_EXPERT_THREADS))
        except (ValueError, TypeError) as error:
            raise CommandError(f"ONCOFLOW_PANEL cannot be used: {error}") from error
        names = ", ".join(spec.name for spec in experts)
        self.stdout.write(f"inference supervisor: {names} at {settings.ONCOFLOW_SUPERVISOR_ADDRESS}")
        serve(
            SupervisorConfig(
                experts=experts,
                address=str(settings.ONCOFLOW_SUPERVISOR_ADDRESS),
                key_path=settings.ONCOFLOW_SUPERVISOR_KEY,
                memory_bytes=int(settings.ONCOFLOW_SUPERVISOR_MEMORY_MIB) << 20,
                at_once=int(settings.ONCOFLOW_EXPERTS_AT_ONCE),
            )
        )
