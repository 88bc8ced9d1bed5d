"""Let a system send HL7 v2 messages."""

from __future__ import annotations

import ipaddress
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError, transaction

from audit.services import Actor, record
from fhir_api.hl7v2.er7 import Er7Error, charset_codec
from fhir_api.models import Peer


class Command(BaseCommand):
    """Adds or changes a peer, by its name."""

    help = "Let a system send HL7 v2 messages: it is known by MSH-3 and MSH-4, and by its address where one is given."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Command line."""
        parser.add_argument("name")
        parser.add_argument("--application", required=True, help="MSH-3.1")
        parser.add_argument("--facility", required=True, help="MSH-4.1")
        parser.add_argument("--remote-addr", default="", help="only from this IP address")
        parser.add_argument(
            "--any-address", action="store_true", help="from any address: MSH-3 and MSH-4 alone name it"
        )
        parser.add_argument(
            "--certificate-sha256", default="", help="of the client certificate that it must show over TLS"
        )
        parser.add_argument("--authority", default="", help="assigning authority of its patient numbers that name none")
        parser.add_argument("--processing-ids", default="P", help="MSH-11 values taken, e.g. PT")
        parser.add_argument("--charset", default="", help="HL7 table 0211 name, for where MSH-18 is empty")
        parser.add_argument("--inactive", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Add it."""
        try:
            address = str(ipaddress.ip_address(options["remote_addr"])) if options["remote_addr"] else None
            charset_codec(options["charset"])
        except ValueError:
            raise CommandError("--remote-addr must be an IP address.") from None
        except Er7Error:
            raise CommandError("--charset is not a known name, e.g. 8859/1 or UNICODE UTF-8.") from None
        safe = address or options["any_address"] or options["certificate_sha256"] or settings.ONCOFLOW_DEMO_MODE
        if not safe:
            raise CommandError("Say --remote-addr or --certificate-sha256; --any-address if it may come from anywhere.")
        values = {
            "sending_application": options["application"],
            "sending_facility": options["facility"],
            "remote_addr": address,
            "any_address": options["any_address"],
            "certificate_sha256": options["certificate_sha256"].replace(":", "").lower(),
            "default_authority": options["authority"],
            "processing_ids": options["processing_ids"].upper(),
            "default_charset": options["charset"],
            "active": not options["inactive"],
        }
        try:
            with transaction.atomic():
                peer, created = Peer.objects.update_or_create(name=options["name"], defaults=values)
                record(
                    "peer.change",
                    action="C" if created else "U",
                    resource=f"peer:{peer.id}",
                    actor=Actor.system("add_mllp_peer"),
                    source="command",
                )
        except IntegrityError:
            raise CommandError("Another peer has this application and facility.") from None
        self.stdout.write(f"Peer {peer.name} {'added' if created else 'changed'}.")
