"""Tell where reports are delivered to."""

from __future__ import annotations

import ipaddress
import os
import sys
from argparse import ArgumentParser, Namespace
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from audit.services import Actor, record
from fhir_api.delivery.adapters import FORMATS
from fhir_api.delivery.standing import moved
from fhir_api.delivery.transports import CREDENTIAL, split_address
from fhir_api.models import Endpoint, Transport
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.errors import PermanentError

_OPTIONS = (
    "receiving_application",
    "receiving_facility",
    "processing_id",
    "charset",
    "ca",
    "client_cert",
    "client_key",
)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Command(BaseCommand):
    """Adds or changes an endpoint, by its name."""

    help = "Deliver reports to a FHIR server (fhir URL) or an HL7 v2 receiver (mllp HOST:PORT)."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Command line."""
        parser.add_argument("name")
        parser.add_argument("transport", choices=Transport.values)
        parser.add_argument("address", help="FHIR base URL, or host:port")
        secret = parser.add_mutually_exclusive_group()
        secret.add_argument("--token-env", default="", help="environment variable that holds the bearer token")
        secret.add_argument("--token-stdin", action="store_true")
        parser.add_argument("--timeout", type=float, default=0.0, help="seconds to wait for an answer")
        parser.add_argument("--tls", action="store_true", help="MLLP over TLS")
        parser.add_argument("--allow-plaintext", action="store_true", help="identity may cross the network unencrypted")
        parser.add_argument("--inactive", action="store_true")
        names = [name for formats in FORMATS.values() for name in formats]
        parser.add_argument("--format", choices=names, help="what is sent; the first of its transport unless named")
        parser.add_argument("--final-only", action="store_true", help="nothing that no radiologist has signed")
        parser.add_argument("--never-create", action="store_true", help="FHIR: no Patient, Practitioner, Organization")
        parser.add_argument(
            "--identifier-system",
            action="append",
            default=[],
            metavar="OURS=THEIRS",
            help="FHIR: an identifier system as this receiver knows it; repeats",
        )
        for name in _OPTIONS:
            parser.add_argument(f"--{name.replace('_', '-')}", default="")

    def handle(self, *args: Any, **options: Any) -> None:
        """Add it."""
        self._check(Namespace(**options))
        token = ""
        if options["token_env"]:
            token = os.environ.get(options["token_env"], "").strip()
            if not token:
                raise CommandError(f"The environment variable {options['token_env']} is empty.")
        elif options["token_stdin"]:
            token = sys.stdin.readline().strip()
        capabilities: dict[str, Any] = {name: options[name] for name in _OPTIONS if options[name]}
        if options["timeout"] > 0:
            capabilities["timeout_s"] = options["timeout"]
        if options["tls"]:
            capabilities["tls"] = True
        if options["format"]:
            if options["format"] not in FORMATS[options["transport"]]:
                raise CommandError(f"{options['transport']} has no format {options['format']}.")
            capabilities["format"] = options["format"]
        for name in ("final_only", "never_create"):
            if options[name]:
                capabilities[name] = True
        systems = dict(pair.split("=", 1) for pair in options["identifier_system"] if "=" in pair)
        if len(systems) != len(options["identifier_system"]):
            raise CommandError("An identifier system is said as OURS=THEIRS, each once.")
        if systems:
            capabilities["identifier_systems"] = systems
        values = {
            "transport": options["transport"],
            "address": options["address"],
            "capabilities": capabilities,
            "active": not options["inactive"],
        }
        with transaction.atomic():
            before = Endpoint.objects.filter(name=options["name"]).values_list("address", flat=True).first()
            endpoint, created = Endpoint.objects.update_or_create(name=options["name"], defaults=values)
            change = moved(endpoint, before) if before else {}
            if token:
                endpoint.credential = keys.encrypt(endpoint.key_subject, token.encode(), CREDENTIAL)
                endpoint.save(update_fields=["credential"])
            record(
                "peer.change",
                action="C" if created else "U",
                resource=f"endpoint:{endpoint.id}",
                actor=Actor.system("add_endpoint"),
                source="command",
                detail=change,
            )
        self.stdout.write(f"Endpoint {endpoint.name} {'added' if created else 'changed'}.")

    @staticmethod
    def _check(options: Namespace) -> None:
        if options.transport == Transport.MLLP:
            try:
                host = split_address(options.address)[0]
            except PermanentError:
                raise CommandError("The address must be host:port.") from None
            secure = options.tls
        else:
            url = urlsplit(options.address)
            if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username:
                raise CommandError("The address must be the base URL of a FHIR server, http or https.")
            host, secure = url.hostname, url.scheme == "https"
        if not secure and not _is_loopback(host) and not options.allow_plaintext:
            raise CommandError("Reports name their patients: use https or --tls, or say --allow-plaintext.")
