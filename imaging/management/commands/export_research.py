"""Export studies for research: skull-stripped volumes, or defaced DICOM; nothing with a face leaves."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.core.management.base import BaseCommand, CommandError

from clinical.models import User
from imaging.models import Study
from imaging.preprocessing.intensity import INTENSITIES
from imaging.research.bids_export import Derivative, ExportRefused, export_study


class Command(BaseCommand):
    """Exit status: 0 when everything asked for was written; 1 when a study was refused."""

    help = "Write de-identified, defaced data of studies to a folder, under pseudonyms and shifted dates."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which, where to, and who answers for it."""
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--patient", metavar="PSEUDONYM", help="every prepared study of one patient")
        which.add_argument("--study", metavar="ID", help="one study")
        parser.add_argument("--out", required=True, type=Path, metavar="DIR")
        parser.add_argument("--by", required=True, metavar="USERNAME", help="the person who exports; recorded")
        parser.add_argument("--dicom", action="store_true", help="also the DICOM series, defaced")
        parser.add_argument(
            "--atlas", action="store_true", help="also on MNI152's 1 mm grid, with the way there and back"
        )
        parser.add_argument("--bias", action="store_true", help="also with the bias field taken out (N4)")
        parser.add_argument("--intensity", choices=INTENSITIES, default="", help="also normalised within the brain")

    def handle(self, *args: Any, **options: Any) -> None:
        """One study after the other; a refused one does not stop the others."""
        try:
            by = User.objects.get(username=options["by"])
        except User.DoesNotExist:
            raise CommandError(f"there is no account {options['by']!r}") from None
        studies = Study.objects.select_related("patient").order_by("performed_at")
        try:
            chosen = (
                studies.filter(pk=options["study"])
                if options["study"]
                else studies.filter(patient__pseudonym=options["patient"])
            )
            found = list(chosen)
        except ValidationError:
            found = []
        if not found:
            raise CommandError("no such study")
        wanted = Derivative(**{name: options[name] for name in ("dicom", "atlas", "bias", "intensity")})
        refused = 0
        for study in found:
            try:
                made = export_study(study, options["out"], by=by, wanted=wanted)
            except (ExportRefused, PermissionDenied) as error:
                refused += 1
                self.stderr.write(str(getattr(error, "message", error)))
            else:
                self.stdout.write(f"{made.folder}: {len(made.files)} files, {made.size} bytes")
        if refused:
            raise CommandError(f"{refused} of {len(found)} refused")
