"""``manage.py jobs``: list background jobs; retry or cancel one."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from oncoflow_site.foundation import jobs
from oncoflow_site.foundation.models import Job, JobState


class Command(BaseCommand):
    """Look at jobs from a terminal."""

    # The other checks import every page and every FHIR model, which takes long and is not needed here.
    requires_system_checks = ["foundation"]
    help = "List background jobs, newest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Arguments."""
        parser.add_argument("--state", choices=JobState.values)
        parser.add_argument("--kind")
        parser.add_argument("--subject")
        parser.add_argument("--limit", type=int, default=30)
        parser.add_argument("--retry", metavar="ID", help="run a failed, dead or cancelled job again")
        parser.add_argument("--cancel", metavar="ID", help="cancel a waiting or running job")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        for action in (jobs.retry, jobs.cancel):
            if job_id := options[action.__name__]:
                if not Job.objects.filter(pk=job_id).exists() or not action(job_id):
                    raise CommandError(f"There is no such job, or its state does not allow to {action.__name__} it.")
                self.stdout.write("Done.")
                return
        wanted = {name: options[name] for name in ("state", "kind", "subject") if options[name]}
        for row in Job.objects.filter(**wanted)[: options["limit"]]:
            self.stdout.write(
                f"{row.created_at:%Y-%m-%d %H:%M:%S} {row.id} {row.kind:<30} {row.state:<9} "
                f"{row.attempts}/{row.max_attempts} {row.progress:4.0%} {row.subject} {row.error}".rstrip()
            )
