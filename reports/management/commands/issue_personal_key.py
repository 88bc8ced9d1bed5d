"""``manage.py issue_personal_key USERNAME --password-stdin``: give a radiologist a signing key."""

from __future__ import annotations

import getpass
import sys
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit.services import Actor, acting_as
from oncoflow_site.foundation.errors import UserVisibleError
from reports.signing.keyring import issue_personal_key


class Command(BaseCommand):
    """The password is the person's own: it should be typed by that person."""

    help = "Issue a personal signing key, locked with a password that only this person knows."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: CommandParser) -> None:
        """``USERNAME [--password-stdin] [--replace]``."""
        parser.add_argument("username")
        parser.add_argument(
            "--password-stdin", action="store_true", help="read the password from the first line of stdin"
        )
        parser.add_argument("--replace", action="store_true", help="revoke the key this person has")

    def handle(self, *args: Any, **options: Any) -> None:
        """Issue the key."""
        user = get_user_model()._default_manager.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(f"there is no account {options['username']!r}; create it with create_user")
        if options["password_stdin"]:
            password = sys.stdin.readline().rstrip("\r\n")
        else:
            password = getpass.getpass("Password of the signing key: ")
            if getpass.getpass("Once more: ") != password:
                raise CommandError("the two passwords differ")
        try:
            with acting_as(Actor.system("issue_personal_key"), source="command"):
                row = issue_personal_key(user, password, replace=options["replace"])
        except UserVisibleError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Signing key issued to {row.common_name}.")
