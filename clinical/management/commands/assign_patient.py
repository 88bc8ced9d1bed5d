"""Put a member of staff on a patient's care team, or take them off."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser, Namespace
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from audit.actors import Actor, acting_as
from clinical.access import assign, unassign
from clinical.models import Patient, User
from clinical.registry import find_patient
from oncoflow_site.foundation.errors import UserVisibleError


class Command(BaseCommand):
    """``assign_patient alice --patient OF-7K3M-9QXA-2B --reason "treating radiologist"``"""

    help = "Assign a patient to a member of staff; --end takes them off the care team."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        who = parser.add_mutually_exclusive_group(required=True)
        who.add_argument("--patient", help="pseudonym or id")
        who.add_argument("--mrn", help="medical record number")
        who.add_argument("--all", action="store_true", help="every patient there is now (demonstrations)")
        parser.add_argument("--authority", default=None, help="assigning authority of the number")
        parser.add_argument("--reason", default="", help="why this person needs access")
        parser.add_argument("--until", default=None, help="end, e.g. 2026-12-31T18:00")
        parser.add_argument("--end", action="store_true", help="end the assignment")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            user = User.objects.get(username=options["username"])
        except User.DoesNotExist:
            raise CommandError(f"There is no account {options['username']}.") from None
        until = None
        if options["until"]:
            until = parse_datetime(options["until"])
            if until is None:
                raise CommandError("--until must be a date and time such as 2026-12-31T18:00.")
            if timezone.is_naive(until):
                until = timezone.make_aware(until)
        patients = self._patients(Namespace(**options))
        with acting_as(Actor.system("assign_patient"), source="command"):
            for patient in patients:
                try:
                    if options["end"]:
                        ended = unassign(user, patient, by=None)
                        self.stdout.write(f"{patient.pseudonym}: {ended} assignment(s) of {user.username} ended")
                    else:
                        assign(user, patient, reason=options["reason"], by=None, ends_at=until)
                        self.stdout.write(f"{patient.pseudonym}: assigned to {user.username}")
                except UserVisibleError as error:
                    raise CommandError(str(error)) from None

    def _patients(self, options: Namespace) -> list[Patient]:
        if options.all:
            return list(Patient.objects.filter(merged_into__isnull=True))
        found: Patient | None
        if options.mrn:
            found = find_patient(options.authority or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY), options.mrn)
        else:
            text = options.patient
            try:
                found = Patient.objects.filter(pk=uuid.UUID(text)).first()
            except ValueError:
                found = Patient.objects.filter(pseudonym=text.upper()).first()
        if found is None:
            raise CommandError("There is no such patient.")
        return [found]
