"""``manage.py setup_demo``: everything an administrator would set up by commands, in one process to save their start-up time."""

from __future__ import annotations

import io
import json
import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from clinical.models import AssigningAuthority


def quietly(*arguments: str, **options: Any) -> str:
    """Run another command; returns what it printed."""
    said = io.StringIO()
    call_command(*arguments, stdout=said, **options)
    return said.getvalue()


class Command(BaseCommand):
    """Reads ``{"accounts": [...], "emr": {...}}`` from standard input, prints ``{"token": ...}``."""

    help = "Set up an empty installation for the demonstration. Refuses outside demo mode."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--calling-ae-title", default="DEMOSCANNER")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.ONCOFLOW_DEMO_MODE:
            raise CommandError("This installation is not in demo mode: nothing was set up.")
        wanted = json.load(sys.stdin)
        quietly("init_keys", "--if-missing")
        quietly("migrate", "--no-input", verbosity=0)
        quietly("collectstatic", "--no-input", verbosity=0)
        quietly("init_signing")
        quietly("models", "register")
        for account in wanted["accounts"]:
            os.environ["ONCOFLOW_NEW_PASSWORD"] = account["password"]
            staff = ["--staff"] if account.get("staff") else []
            password = (
                ["--no-password"] if account["role"] == "integration" else ["--password-env", "ONCOFLOW_NEW_PASSWORD"]
            )
            quietly(
                "create_user",
                account["username"],
                *(
                    "--role",
                    account["role"],
                    "--first-name",
                    account["first_name"],
                    "--last-name",
                    account["last_name"],
                ),
                *staff,
                *password,
            )
            if account["role"] == "radiologist":
                self._personal_key(account["username"], account["key_password"])
        os.environ.pop("ONCOFLOW_NEW_PASSWORD", None)
        emr = wanted["emr"]
        token = quietly("create_token", emr["account"], "--name", "demo EMR").strip().splitlines()[-1].strip()
        quietly("add_mllp_peer", "demo-emr", "--application", emr["application"], "--facility", emr["facility"])
        # The simulator's own issuer, so that its data sets can be brought in by hand too.
        AssigningAuthority.objects.get_or_create(name="ONCOFLOW-SIM")
        quietly("add_dicom_peer", options["calling_ae_title"])
        os.environ["ONCOFLOW_ENDPOINT_TOKEN"] = emr["token"]
        quietly("add_endpoint", "emr-fhir", "fhir", emr["fhir_url"], "--token-env", "ONCOFLOW_ENDPOINT_TOKEN")
        os.environ.pop("ONCOFLOW_ENDPOINT_TOKEN", None)
        quietly("add_endpoint", "emr-hl7", "mllp", emr["mllp_address"])
        self.stdout.write(json.dumps({"token": token}))

    def _personal_key(self, username: str, password: str) -> None:
        standard_input = sys.stdin
        sys.stdin = io.StringIO(password + "\n")
        try:
            quietly("issue_personal_key", username, "--password-stdin")
        finally:
            sys.stdin = standard_input
