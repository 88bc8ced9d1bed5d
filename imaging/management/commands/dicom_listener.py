"""Listen for DICOM associations (C-ECHO, C-STORE)."""

from __future__ import annotations

import os
import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from imaging.dimse.associations import server_context
from imaging.dimse.storage_scp import StorageScp


class Command(BaseCommand):
    """A process of its own; ends cleanly on SIGTERM and SIGINT."""

    help = "Listen for DICOM C-ECHO and C-STORE from the application entities that add_dicom_peer allowed."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Address and title; the settings by default."""
        parser.add_argument("--host", default=settings.ONCOFLOW_DICOM_HOST)
        parser.add_argument("--port", type=int, default=settings.ONCOFLOW_DICOM_PORT)
        parser.add_argument("--tls-port", type=int, default=settings.ONCOFLOW_DICOM_TLS_PORT)
        parser.add_argument("--ae-title", default=settings.ONCOFLOW_DICOM_AE_TITLE)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until told to stop."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        scp = StorageScp(options["ae_title"])
        try:
            port = scp.start(options["host"], options["port"])
        except OSError as error:
            raise CommandError(f"cannot listen on {options['host']}:{options['port']}: {error.strerror}") from None
        self.stdout.write(f"DICOM listener {options['ae_title']} on {options['host']}:{port}")
        try:
            context = server_context()
            if context is not None:
                tls_port = scp.start(options["host"], options["tls_port"], context)
                self.stdout.write(f"DICOM listener {options['ae_title']} on {options['host']}:{tls_port} with TLS")
        except OSError as error:  # ssl.SSLError too
            scp.stop(0)
            raise CommandError(f"cannot listen with TLS: {error.strerror or error}") from None
        self.stdout.flush()
        stop.wait()
        ended = scp.stop()
        self.stdout.write("DICOM listener stopped")
        if not ended:
            # pynetdicom's threads are no daemons: one whose peer keeps silent would keep this process alive. Whatever
            # was answered with success is committed.
            self.stdout.flush()
            os._exit(0)
