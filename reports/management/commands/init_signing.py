"""``manage.py init_signing``: create the demonstration authority and the organisation's seal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit.services import Actor, acting_as
from reports.signing.keyring import init_signing


class Command(BaseCommand):
    """Idempotent: what exists is kept."""

    help = "Create the demonstration signing authority and the organisation's seal, unless they exist."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: CommandParser) -> None:
        """``--export FILE``."""
        parser.add_argument("--export", metavar="FILE", help="write the authority's certificate (PEM) to FILE")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create what is missing and say which certificate to trust."""
        with acting_as(Actor.system("init_signing"), source="command"):
            authority, seal = init_signing()
        if options["export"]:
            try:
                Path(options["export"]).write_text(authority.certificate, encoding="ascii")
            except OSError as error:
                raise CommandError(f"cannot write {options['export']}: {error.strerror}") from None
        self.stdout.write(f"Authority: {authority.common_name}")
        self.stdout.write(f"Seal: {seal.common_name}")
