"""The model registry on the command line: list, verify, register, set a standing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import services as audit
from inference import registry
from inference.experts.base import ExpertError
from inference.models import ModelStatus, ModelVersion
from oncoflow_site.foundation.errors import UserVisibleError


class Command(BaseCommand):
    """``manage.py models list|verify|register|status``"""

    help = "List, verify and register model versions, and set their standing (voter, adviser, disabled)."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: CommandParser) -> None:
        """Sub-commands."""
        commands = parser.add_subparsers(dest="command", required=True)
        commands.add_parser("list", help="Every registered version with its standing and Dice.")
        commands.add_parser("verify", help="Compare the panel's weights with their recorded SHA-256.")
        commands.add_parser("register", help="Register the panel's weights and derive their standing.")
        status = commands.add_parser("status", help="Set the standing of a registered version.")
        status.add_argument("name")
        status.add_argument("version")
        status.add_argument("standing", choices=ModelStatus.values)
        status.add_argument("--why", required=True)
        status.add_argument("--who", required=True, help="User name of whoever decided.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the sub-command; exit status 1 when weights are missing or altered."""
        with audit.acting_as(audit.Actor.system("models command")):
            getattr(self, f"_{options['command']}")(options)

    def _list(self, options: dict[str, Any]) -> None:
        for row in ModelVersion.objects.all():
            regions = row.evaluation.get("regions", {})
            dice = " ".join(f"{name} {float(one['mean']):.3f}" for name, one in regions.items() if "mean" in one)
            demo = " DEMO" if row.demo_only else ""
            self.stdout.write(f"{row.name} {row.version} {row.status}{demo}  Dice {dice or 'not evaluated'}")
            self.stdout.write(f"    {row.architecture}; sha256 {row.sha256}")
            self.stdout.write(f"    {row.status_reason}")

    def _verify(self, options: dict[str, Any]) -> None:
        bad = 0
        for spec in registry.panel_specs():
            try:
                registry.verify(Path(spec["weights_dir"]))
                self.stdout.write(f"{spec['name']}: ok")
            except ExpertError as error:
                bad += 1
                self.stdout.write(f"{spec['name']}: {error}")
        if bad:
            raise CommandError(f"{bad} of the panel's experts have missing or altered weights.")

    def _register(self, options: dict[str, Any]) -> None:
        unusable = [name for name, row in registry.register_panel().items() if row is None]
        self._list(options)
        if unusable:
            raise CommandError(f"No usable weights: {', '.join(unusable)}. `manage.py models verify` says why.")

    def _status(self, options: dict[str, Any]) -> None:
        rows = ModelVersion.objects.filter(name=options["name"], version=options["version"])
        row = rows.order_by("-registered_at").first()
        if row is None:
            raise CommandError("There is no such model version; `manage.py models list` shows them.")
        try:
            registry.set_status(row, options["standing"], who=options["who"], why=options["why"])
        except UserVisibleError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{row.name} {row.version} is now {row.status}.")
