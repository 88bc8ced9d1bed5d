"""Make a bearer token."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from audit.services import Actor, acting_as
from fhir_api.access.tokens import create_token
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError


class Command(BaseCommand):
    """Prints the token once, alone on the last line; only its hash is kept."""

    help = "Make a bearer token for an account and print it. It cannot be shown again."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Command line."""
        parser.add_argument("username")
        parser.add_argument("--name", required=True, help="what will use it")
        parser.add_argument("--scope", action="append", help="SMART 2 scope; may be repeated")
        parser.add_argument("--expires-days", type=int, default=0, help="0: until it is revoked")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it."""
        user = get_user_model().objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError("There is no account of that name. create_user makes one.")
        expires = now() + timedelta(days=options["expires_days"]) if options["expires_days"] > 0 else None
        try:
            with acting_as(Actor.system("create_token"), source="command"):
                _, token = create_token(user, options["name"], scopes=options["scope"], expires_at=expires)
        except UserVisibleError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(token)
