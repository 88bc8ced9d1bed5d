"""``manage.py deliveries``: list the outbox; resend or abandon a delivery."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from oncoflow_site.foundation import outbox
from oncoflow_site.foundation.errors import IllegalMove
from oncoflow_site.foundation.models import Delivery, DeliveryState


class Command(BaseCommand):
    """Look at deliveries from a terminal."""

    # The other checks import every page and every FHIR model, which takes long and is not needed here.
    requires_system_checks = ["foundation"]
    help = "List deliveries, newest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Arguments."""
        parser.add_argument("--state", choices=DeliveryState.values)
        parser.add_argument("--endpoint")
        parser.add_argument("--limit", type=int, default=30)
        parser.add_argument("--resend", metavar="ID", help="send a failed or dead delivery again")
        parser.add_argument("--abandon", metavar="ID", help="give a delivery up for ever, so that its lane goes on")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        for action in (outbox.resend, outbox.abandon):
            if delivery_id := options[action.__name__]:
                try:
                    action(delivery_id)
                except (Delivery.DoesNotExist, IllegalMove, ValueError) as error:
                    text = str(error) if isinstance(error, IllegalMove) else "There is no such delivery."
                    raise CommandError(text) from None
                self.stdout.write("Done.")
                return
        wanted = {name: options[name] for name in ("state", "endpoint") if options[name]}
        for row in Delivery.objects.filter(**wanted)[: options["limit"]]:
            self.stdout.write(
                f"{row.created_at:%Y-%m-%d %H:%M:%S} {row.id} {row.endpoint:<20} {row.transport:<8} {row.state:<9} "
                f"{row.attempts} {row.response_code} {row.subject} {row.last_error}".rstrip()
            )
