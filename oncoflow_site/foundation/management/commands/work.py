"""``manage.py work --queue NAME``: a worker process for one queue."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from oncoflow_site.foundation import huey_app, worker


class Command(BaseCommand):
    """Consume one queue until SIGTERM or SIGINT."""

    # The other checks import every page and every FHIR model, which takes long and is not needed here.
    requires_system_checks = ["foundation"]
    help = "Work on the jobs of one queue."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Arguments."""
        parser.add_argument("--queue", choices=huey_app.QUEUES, default="default")
        parser.add_argument("--threads", type=int, default=None, help="jobs at a time (default depends on the queue)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        sys.exit(worker.serve(options["queue"], threads=options["threads"]))
