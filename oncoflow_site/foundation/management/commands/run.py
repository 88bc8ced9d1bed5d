"""``manage.py run``: the whole service on one machine, under one process manager."""

from __future__ import annotations

import signal
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from oncoflow_site.foundation.process_manager import ProcessManager


class Command(BaseCommand):
    """Start every process of ``settings.ONCOFLOW_PROCESSES`` and keep it running."""

    # The other checks import every page and every FHIR model, which takes long and is not needed here.
    requires_system_checks = ["foundation"]
    help = "Run web, listeners, supervisor and workers; restart what dies; stop all on SIGINT or SIGTERM."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Arguments."""
        parser.add_argument("--only", nargs="+", metavar="NAME", help="only these processes")
        parser.add_argument("--without", nargs="+", metavar="NAME", default=[], help="all but these")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        processes = dict(settings.ONCOFLOW_PROCESSES)
        named = set(options["only"] or processes) | set(options["without"])
        if unknown := named - processes.keys():
            raise CommandError(f"no such process: {', '.join(sorted(unknown))}; there are {', '.join(processes)}")
        wanted = [name for name in options["only"] or processes if name not in options["without"]]
        manager = ProcessManager({name: processes[name] for name in wanted}, write=self._write)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: manager.stop())
        connections.close_all()
        manager.run()

    def _write(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
