"""``manage.py retention``: apply the retention policy, or show what it would remove; place and release legal holds."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from audit import services as audit
from oncoflow_site.foundation import retention
from oncoflow_site.foundation.models import LegalHold


class Command(BaseCommand):
    """The workers apply the policy by themselves, every six hours; this is for looking, and for not waiting."""

    requires_system_checks = ["foundation"]
    help = "Remove the bytes of stored objects that are older than ONCOFLOW_RETENTION keeps their kind."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What to do."""
        parser.add_argument("--dry-run", action="store_true", help="only print what would go")
        parser.add_argument("--hold", metavar="SUBJECT", help="keep everything of e.g. patient:ID")
        parser.add_argument("--reason", default="", help="why, with --hold; no identity")
        parser.add_argument("--release", metavar="SUBJECT", help="end a legal hold")
        parser.add_argument("--holds", action="store_true", help="list legal holds")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run."""
        with audit.acting_as(audit.Actor.system("retention"), source="command"):
            if options["hold"]:
                self._hold(options["hold"], options["reason"])
            elif options["release"]:
                self._release(options["release"])
            elif options["holds"]:
                for one in LegalHold.objects.all():
                    self.stdout.write(f"{one.placed_at:%Y-%m-%d} {one.subject} {one.reason}")
            else:
                self._apply(options["dry_run"])

    def _apply(self, dry_run: bool) -> None:
        lines = retention.apply(dry_run=dry_run)
        for line in lines:
            verb = "would go" if dry_run else "removed"
            self.stdout.write(f"{line.kind}, kept {line.days} days: {line.removed} {verb} ({line.size} bytes)")
            for reason, count in sorted(line.kept.items()):
                self.stdout.write(f"  {count} stay: {reason}")
        if not lines:
            self.stdout.write("ONCOFLOW_RETENTION names no kind: everything is kept.")

    def _hold(self, subject: str, reason: str) -> None:
        try:
            with transaction.atomic():
                retention.hold(subject, reason, by="command")
                audit.record("retention.hold", action="C", resource=subject)
        except ValueError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{subject} is held.")

    def _release(self, subject: str) -> None:
        with transaction.atomic():
            if not retention.release(subject):
                raise CommandError(f"there is no legal hold on {subject}")
            audit.record("retention.release", action="D", resource=subject)
        self.stdout.write(f"{subject} is held no longer.")
