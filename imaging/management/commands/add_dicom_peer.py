"""Allow a DICOM application entity to send."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from imaging.models import DicomPeer


class Command(BaseCommand):
    """Adds or changes one row of the allow-list; repeating it is harmless."""

    help = "Allow the application entity AE_TITLE (at HOST, PORT) to associate with us."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Title, host and port."""
        parser.add_argument("ae_title")
        parser.add_argument("host", nargs="?", default="")
        parser.add_argument("port", nargs="?", type=int, default=None)
        parser.add_argument("--check-host", action="store_true", help="refuse it from any other address")
        parser.add_argument("--remove", action="store_true", help="allow it no longer")

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the row."""
        title = options["ae_title"].strip()
        if not re.fullmatch(r"[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]{0,15}", title):
            raise CommandError("an AE title has 1 to 16 printable characters and no backslash (PS3.5, VR AE)")
        if options["check_host"] and not options["host"]:
            raise CommandError("--check-host needs a host")
        if options["port"] is not None and not 0 < options["port"] < 65536:
            raise CommandError("the port must be between 1 and 65535")
        DicomPeer.objects.update_or_create(
            ae_title=title,
            defaults={
                "host": options["host"],
                "port": options["port"],
                "check_host": options["check_host"],
                "active": not options["remove"],
            },
        )
        self.stdout.write(f"{title}: {'removed' if options['remove'] else 'allowed'}")
