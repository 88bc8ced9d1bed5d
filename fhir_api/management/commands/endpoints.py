"""How the endpoints stand; test one; send it what it never got."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit.services import Actor
from fhir_api.delivery.deliver import start_backfill
from fhir_api.delivery.standing import endpoint_standings, try_endpoint
from fhir_api.models import Endpoint


class Command(BaseCommand):
    """The endpoints at the terminal."""

    help = "List endpoints with state, depth and age of their queue; test one; queue issued reports for one."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Command line."""
        action = parser.add_mutually_exclusive_group()
        action.add_argument("--test", metavar="NAME", help="ask it whether it is there; no report is sent")
        action.add_argument("--backfill", metavar="NAME", help="queue issued reports that it never got")
        parser.add_argument(
            "--since", type=date.fromisoformat, help="versions issued on this day (YYYY-MM-DD) or later"
        )
        parser.add_argument("--report", action="append", type=uuid.UUID, default=[], help="this report only; repeats")
        parser.add_argument("--delivered-too", action="store_true", help="also what it got before")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        actor = Actor.system("endpoints")
        if options["test"]:
            problem = try_endpoint(_endpoint(options["test"]), actor=actor, source="command")
            if problem:
                raise CommandError(problem)
            self.stdout.write("It answers.")
        elif options["backfill"]:
            if options["delivered_too"] and not options["since"] and not options["report"]:
                raise CommandError("Say --since or --report: everything ever issued would be sent once more.")
            count = start_backfill(
                _endpoint(options["backfill"]),
                actor=actor,
                source="command",
                since=options["since"],
                report_ids=options["report"],
                delivered_too=options["delivered_too"],
            )
            self.stdout.write(f"{count} reports queued.")
        else:
            for one in endpoint_standings():
                oldest = f" since {one.oldest:%Y-%m-%d %H:%M}" if one.oldest else ""
                self.stdout.write(
                    f"{one.endpoint.name:<20} {one.state:<8} {one.waiting} waiting{oldest}, {one.refused} refused, "
                    f"{one.never} never sent {one.reason}".rstrip()
                )


def _endpoint(name: str) -> Endpoint:
    endpoint = Endpoint.objects.filter(name=name).first()
    if endpoint is None:
        raise CommandError("There is no endpoint of this name.")
    return endpoint
