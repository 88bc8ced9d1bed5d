"""``manage.py init_keys``: make the master keysets and the web server's secret key."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from oncoflow_site.foundation import files, keys
from oncoflow_site.foundation.errors import UserVisibleError


class Command(BaseCommand):
    """Create what must exist before anything is stored. Never overwrites."""

    requires_system_checks: ClassVar[list[str]] = []  # type: ignore[misc]  # they would complain of what this command creates
    help = "Create the master keysets (and the Django secret key beside them). Back them up: without them all is lost."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Arguments."""
        parser.add_argument("--if-missing", action="store_true", help="succeed quietly when they are there already")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        path = keys.keyset_path()
        if path is None:
            raise CommandError("ONCOFLOW_KEYSET names no file")
        try:
            keys.create_keysets(path)
            self.stdout.write(f"Keysets written to {path}. Keep a copy in a safe place, apart from the data.")
        except UserVisibleError as error:
            if not options["if_missing"]:
                raise CommandError(str(error)) from None
        secret = Path(settings.ONCOFLOW_DATA_DIR) / "keys" / "django-secret-key"
        files.make_folder(secret.parent)
        try:
            files.write_new(secret, secrets.token_urlsafe(64).encode())
            self.stdout.write(f"Secret key of the web server written to {secret}.")
        except FileExistsError:
            pass
