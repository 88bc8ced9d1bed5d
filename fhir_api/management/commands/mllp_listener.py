"""Listen for HL7 v2 messages over MLLP."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from argparse import ArgumentParser, Namespace
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from fhir_api.hl7v2.ack import build_ack
from fhir_api.hl7v2.intake import receive, refuse_too_large
from fhir_api.hl7v2.mllp import MllpLimits, MllpServer

logger = logging.getLogger(__name__)


def _tls(options: Namespace) -> ssl.SSLContext | None:
    if not options.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key or None)
        if options.tls_client_ca:
            context.load_verify_locations(options.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise CommandError(f"The TLS certificate, key or authority cannot be read: {type(error).__name__}.") from None
    return context


class Command(BaseCommand):
    """Runs until SIGTERM or SIGINT; messages in hand are answered before it ends."""

    help = "Listen for HL7 v2 messages over MLLP. Senders are those that add_mllp_peer made known."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Command line."""
        parser.add_argument("--host", default=str(getattr(settings, "ONCOFLOW_MLLP_HOST", "127.0.0.1")))
        parser.add_argument("--port", type=int, default=settings.ONCOFLOW_MLLP_PORT, help="0 takes a free one")
        parser.add_argument("--tls-cert", default="", help="PEM certificate chain: switches TLS on")
        parser.add_argument("--tls-key", default="", help="PEM private key")
        parser.add_argument("--tls-client-ca", default="", help="PEM authority: clients must show a certificate of it")

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve."""
        build_ack("AA", None)  # loads hl7apy's tables now, so that the first sender does not wait for them
        asyncio.run(self._serve(Namespace(**options)))

    async def _serve(self, options: Namespace) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        # SQLite has one writer; more threads would only wait for each other.
        server = MllpServer(receive, too_large=refuse_too_large, limits=MllpLimits(), tls=_tls(options), threads=4)
        try:
            port = await server.start(options.host, options.port)
        except OSError as error:
            raise CommandError(f"Cannot listen on {options.host}:{options.port}: {error.strerror}.") from None
        self.stdout.write(f"mllp: listening on {options.host}:{port}")
        self.stdout.flush()
        await stop.wait()
        await server.stop()
        logger.info("mllp: stopped")
