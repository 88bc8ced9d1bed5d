"""Create an account for a member of staff or a connected system."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from getpass import getpass
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from audit.actors import Actor
from audit.services import record
from clinical.models import User
from clinical.roles import Role


class Command(BaseCommand):
    """``create_user alice --role radiologist --password-stdin < file``"""

    help = "Create an account with a role. The password never appears on the command line."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--role", required=True, choices=Role.values)
        source = parser.add_mutually_exclusive_group()
        source.add_argument("--password-env", metavar="VAR", help="name of the environment variable that holds it")
        source.add_argument("--password-stdin", action="store_true", help="read it from standard input")
        source.add_argument("--no-password", action="store_true", help="for connected systems that use tokens only")
        parser.add_argument("--first-name", default="")
        parser.add_argument("--last-name", default="")
        parser.add_argument("--email", default="")
        parser.add_argument("--staff", action="store_true", help="may open the administration pages")
        parser.add_argument("--exist-ok", action="store_true", help="succeed if the account exists with this role")

    def handle(self, *args: Any, **options: Any) -> None:
        username, role = options["username"], options["role"]
        known = User.objects.filter(username=username).first()
        if known is not None:
            if options["exist_ok"] and known.role == role:
                self.stdout.write(f"{username} exists")
                return
            raise CommandError(f"The account {username} exists already, with the role {known.get_role_display()}.")
        user = User(
            username=username,
            role=role,
            first_name=options["first_name"],
            last_name=options["last_name"],
            email=options["email"],
            is_staff=options["staff"] or role == Role.ADMIN,
            is_superuser=role == Role.ADMIN,
        )
        password = self._password(Namespace(**options))
        try:
            if password is not None:
                validate_password(password, user)
            user.set_password(password)
            user.full_clean()
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        with transaction.atomic():
            user.save()
            record(
                "user.create",
                action="C",
                resource=f"user:{user.pk}",
                actor=Actor.system("create_user"),
                source="command",
                detail={"role": role},
            )
        self.stdout.write(f"{username} created as {user.get_role_display()}")

    def _password(self, options: Namespace) -> str | None:
        if options.no_password:
            return None
        if options.password_env:
            value = os.environ.get(options.password_env)
            if not value:
                raise CommandError(f"The environment variable {options.password_env} is not set.")
            return value
        if options.password_stdin:
            value = sys.stdin.readline().rstrip("\r\n")
            if not value:
                raise CommandError("No password on standard input.")
            return value
        first = getpass("Password: ")
        if first != getpass("Again: "):
            raise CommandError("The two passwords differ.")
        return first
