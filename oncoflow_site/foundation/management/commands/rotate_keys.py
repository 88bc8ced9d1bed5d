"""``manage.py rotate_keys``: change the master key, wrap every data key anew, retire old master keys."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from oncoflow_site.foundation import keys
from oncoflow_site.foundation.errors import EngineError, UserVisibleError


class Command(BaseCommand):
    """Rotation of the master key."""

    # The other checks import every page and every FHIR model, which takes long and is not needed here.
    requires_system_checks = ["foundation"]
    help = "Add a new master key, wrap every data key with it; with --retire also remove unused old master keys."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Arguments."""
        parser.add_argument("--rewrap-only", action="store_true", help="the new master key is in the keyset already")
        parser.add_argument("--retire", action="store_true", help="remove master keys that wrap nothing any more")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        try:
            count = keys.rewrap_all() if options["rewrap_only"] else keys.rotate_master()
            self.stdout.write(f"{count} data keys wrapped with master key {keys.master_key_ids()[0]}.")
            if options["retire"]:
                gone = keys.retire_old_master_keys()
                self.stdout.write(f"{len(gone)} old master keys removed. Backups made before need the old keyset.")
        except (UserVisibleError, EngineError) as error:
            raise CommandError(str(error)) from None
