"""Make stored volumes again from their recorded transforms and compare the bytes."""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from audit import services as audit
from imaging.geometry.grid import GeometryError
from imaging.models import Volume
from imaging.volumes.reproduce import CannotRemake, library_versions, remake
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import EngineError, UserVisibleError


class Command(BaseCommand):
    """Exit status: 0 when every volume looked at is what its record makes; 1 otherwise."""

    help = (
        "Make volumes again from their series and recorded transforms, and compare their SHA-256 with what is stored."
    )
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which ones."""
        parser.add_argument("--study", default="", metavar="ID", help="one study's volumes only")
        parser.add_argument("--newest", type=int, default=0, metavar="N", help="only the N newest")

    def handle(self, *args: Any, **options: Any) -> None:
        """One volume after the other; at most one is in memory."""
        rows = Volume.objects.select_related("volume_set__study", "volume_set__brain_mask", "source_series", "object")
        if options["study"]:
            rows = rows.filter(volume_set__study_id=options["study"])
        rows = rows.order_by("-volume_set__created_at", "sequence")
        if options["newest"]:
            rows = rows[: options["newest"]]
        counts = {"the same": 0, "different": 0, "other libraries": 0, "cannot be made again": 0}
        here = library_versions()
        for volume in rows.iterator(chunk_size=20):
            outcome = self._look(volume, here)
            counts[outcome] += 1
            with transaction.atomic():
                audit.record(
                    "study.verify",
                    action="R",
                    resource=volume.volume_set.study.subject,
                    patient_id=volume.volume_set.study.patient_id,
                    actor=audit.Actor.system("verify_volumes"),
                    outcome=8 if outcome == "different" else 0,
                    detail={"sequence": volume.sequence, "result": outcome},
                    source="command",
                )
            if outcome != "the same":
                self.stdout.write(f"volume {volume.pk} ({volume.sequence}): {outcome}")
        self.stdout.write(", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no volumes")
        if counts["different"]:
            raise CommandError("a volume is not what its record makes")

    def _look(self, volume: Volume, here: dict[str, str]) -> str:
        try:
            if hashlib.sha256(objects.get(volume.object)).hexdigest() != volume.sha256:
                return "different"
            again = hashlib.sha256(remake(volume)).hexdigest()
        except CannotRemake:
            return "cannot be made again"
        except (UserVisibleError, EngineError, GeometryError):
            return "different"
        if again == volume.sha256:
            return "the same"
        return "different" if volume.volume_set.parameters.versions == here else "other libraries"
