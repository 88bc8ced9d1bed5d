"""DICOM to NIfTI on disk; nothing enters the service."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from imaging.research.dicom_to_nifti import convert_folder


class Command(BaseCommand):
    """Exit status: 0 when every series was converted or refused by name and at least one converted; 1 otherwise."""

    help = "Convert the DICOM series of a folder to NIfTI (.nii.gz, RAS+) with a sidecar each, or say why not."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """From where to where."""
        parser.add_argument("folder", type=Path, metavar="FOLDER")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR")

    def handle(self, *args: Any, **options: Any) -> None:
        """One line a series."""
        if not options["folder"].is_dir():
            raise CommandError("FOLDER is not a folder")
        done = 0
        for one in convert_folder(options["folder"], options["out"]):
            which = f"series {one.number}" if one.number is not None else "a series without a number"
            if one.path is None:
                self.stdout.write(f"{which} ({one.images} images): refused, {one.code}: {one.reason}")
                continue
            done += 1
            sequence = f"{one.recognition.sequence} ({one.recognition.confidence:g}: {one.recognition.reason})"
            self.stdout.write(f"{which} ({one.images} images): {one.path.name}, {sequence}")
            for warning in one.warnings:
                self.stdout.write(f"  {warning}")
        if not done:
            raise CommandError("no series was converted")
