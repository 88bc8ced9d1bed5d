"""Allow a DICOM application entity to send."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from imaging.models import DicomPeer, PriorsBy
from imaging.priors.pacs import CREDENTIAL
from oncoflow_site.foundation import keys


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
        parser.add_argument("--tls", action="store_true", help="call it with TLS")
        parser.add_argument(
            "--priors",
            choices=[one.value for one in PriorsBy if one.value],
            default="",
            help="ask it for a patient's earlier studies when an order arrives",
        )
        parser.add_argument("--dicomweb", default="", metavar="URL", help="base address of its DICOMweb service")
        parser.add_argument(
            "--credential-stdin",
            action="store_true",
            help="read the value of the HTTP header Authorization for it (e.g. 'Bearer ...', 'Basic ...')",
        )
        parser.add_argument("--allow-plaintext", action="store_true", help="DICOMweb over http to another machine")
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
        if options["priors"] == PriorsBy.DIMSE and not (options["host"] and options["port"]):
            raise CommandError("--priors dimse needs a host and a port")
        if options["priors"] == PriorsBy.DICOMWEB and not options["dicomweb"]:
            raise CommandError("--priors dicomweb needs --dicomweb URL")
        if options["dicomweb"]:
            _check_url(options["dicomweb"], options["allow_plaintext"])
        values: dict[str, Any] = {
            "host": options["host"],
            "port": options["port"],
            "check_host": options["check_host"],
            "tls": options["tls"],
            "priors": options["priors"],
            "dicomweb_url": options["dicomweb"],
            "active": not options["remove"],
        }
        with transaction.atomic():
            peer, _ = DicomPeer.objects.update_or_create(ae_title=title, defaults=values)
            if options["credential_stdin"]:
                secret = sys.stdin.readline().strip()
                if not secret.isascii() or " " not in secret:
                    raise CommandError("the credential is the whole value of the header, e.g. 'Bearer abc'")
                peer.credential = keys.encrypt(peer.key_subject, secret.encode("ascii"), CREDENTIAL)
                peer.save(update_fields=["credential"])
        self.stdout.write(f"{title}: {'removed' if options['remove'] else 'allowed'}")


def _check_url(url: str, allow_plaintext: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise CommandError("--dicomweb takes the base address of a DICOMweb service, http or https")
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not local and not allow_plaintext:
        raise CommandError("images name their patients: use https, or say --allow-plaintext")
