"""Bring in what lands in the watched folder or bucket."""

from __future__ import annotations

import logging
import signal
import threading
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.files.storage import storages
from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections

from imaging.intake.folder_watcher import Watcher
from imaging.intake.s3_notifications import S3Events
from oncoflow_site.foundation import jobs, stores
from oncoflow_site.foundation.errors import safe_error_text

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """A process of its own; ends cleanly on SIGTERM and SIGINT, and survives a store or a database that is away."""

    help = "Watch the folder or bucket of ONCOFLOW_INTAKE_* and have what lands there filed by the workers."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """For a look by hand, and for tests."""
        parser.add_argument("--until-empty", action="store_true", help="end when nothing is left to take up")
        parser.add_argument("--run-here", action="store_true", help="run the jobs in this process")

    def handle(self, *args: Any, **options: Any) -> None:
        """Watch until told to stop."""
        if not stores.configured("intake"):
            raise CommandError(
                "set ONCOFLOW_INTAKE_FOLDER, ONCOFLOW_INTAKE_S3_BUCKET or ONCOFLOW_INTAKE_AZURE_CONTAINER"
            )
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        store = stores.store("intake")
        watcher, events = Watcher(store), self._events()
        self.stdout.write("watching the intake")
        self.stdout.flush()
        sweep_at = 0.0
        while not stop.is_set():
            try:
                close_old_connections()
                if events is None or time.monotonic() >= sweep_at:
                    watcher.round()
                    sweep_at = time.monotonic() + float(settings.ONCOFLOW_INTAKE_SWEEP_SECONDS)
                if events is not None:
                    folders, receipts = events.receive(int(settings.ONCOFLOW_INTAKE_POLL_SECONDS))
                    if folders:
                        watcher.round(folders)
                    events.done(receipts)
                if options["run_here"]:
                    jobs.reap("default")
                    jobs.run_pending("default")
            except Exception as error:
                if options["until_empty"]:
                    raise
                logger.warning("intake: %s", safe_error_text(error))
                stop.wait(float(settings.ONCOFLOW_INTAKE_POLL_SECONDS))
            if options["until_empty"] and not watcher.waiting():
                break
            if events is None:
                stop.wait(float(settings.ONCOFLOW_INTAKE_POLL_SECONDS))
        self.stdout.write("stopped watching the intake")

    @staticmethod
    def _events() -> S3Events | None:
        if not settings.ONCOFLOW_INTAKE_SQS_URL:
            return None
        options = getattr(storages["intake"], "location", "")
        region = getattr(storages["intake"], "region_name", None)
        return S3Events(
            settings.ONCOFLOW_INTAKE_SQS_URL,
            location=str(options or ""),
            endpoint=settings.ONCOFLOW_INTAKE_SQS_ENDPOINT,
            region=region,
        )
