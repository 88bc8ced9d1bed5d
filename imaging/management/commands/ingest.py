"""Bring in DICOM folders, zip archives or NIfTI files."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit import services as audit
from imaging.brats.sequences import PANEL_SEQUENCES
from imaging.intake.declaration import Declaration
from imaging.intake.file_import import ingest
from imaging.models import Study, StudyState
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.job_watch import Step, companions, watch, workers_alive
from oncoflow_site.foundation.models import JobState
from oncoflow_site.foundation.request_id import bind_request_id


class Command(BaseCommand):
    """Exit status: 0 done; 1 something failed; 2 a study was flagged and not segmented."""

    help = (
        "Bring in images from disk. DICOM says itself what it is; NIfTI needs --patient and --date, and each file's "
        "sequence by --sequence or by its name (*_t1, *_t1c, *_t2, *_flair)."
    )
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What the files are."""
        parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="file or folder")
        parser.add_argument("--patient", default="", metavar="MRN", help="medical record number")
        parser.add_argument("--authority", default="", help="its assigning authority (default: the hospital's)")
        parser.add_argument("--family", default="")
        parser.add_argument("--given", default="")
        parser.add_argument("--birth-date", type=_day, default=None, metavar="YYYY-MM-DD")
        parser.add_argument("--sex", choices=("M", "F", "O", "U"), default="U")
        parser.add_argument("--date", type=_day, default=None, metavar="YYYY-MM-DD", help="date of the examination")
        parser.add_argument(
            "--sequence",
            action="append",
            default=[],
            metavar="NAME=FILE",
            help=f"NAME is one of {', '.join(PANEL_SEQUENCES)}",
        )
        parser.add_argument("--spacing-unknown", action="store_true", help="assess nothing in millimetres")
        parser.add_argument(
            "--geometry-confirmed",
            action="store_true",
            help="side and voxel size of the NIfTI headers are right, I know",
        )
        parser.add_argument("--reference", type=Path, help="not read: a known mask never enters the service")
        parser.add_argument("--wait", action="store_true", help="follow the pipeline to its end")
        parser.add_argument("--run-here", action="store_true", help="with --wait: run the jobs in this process")
        parser.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS")

    def handle(self, *args: Any, **options: Any) -> None:
        """Bring in, report, and wait if asked to."""
        if not options["paths"] and not options["sequence"]:
            raise CommandError("give at least one PATH, or --sequence NAME=FILE")
        self.began = time.monotonic()
        with ExitStack() as stack:
            if options["run_here"] and not workers_alive():
                stack.enter_context(companions())  # first, so that they load while the files are read
            request_id = stack.enter_context(bind_request_id())
            stack.enter_context(audit.acting_as(audit.Actor.system("ingest"), source="command"))
            try:
                result = ingest(options["paths"], _declaration(Namespace(**options)), self._say)
            except UserVisibleError as error:
                raise CommandError(str(error)) from None
            for note in result.notes[:50]:
                self._say(note)
            if len(result.notes) > 50:
                self._say(f"… and {len(result.notes) - 50} more like these")
            self._say(", ".join(f"{count} {name}" for name, count in result.counts.items() if count) or "nothing found")
            if not result.studies:
                raise CommandError("no image was brought in")
            for study in result.studies:
                self._say(f"study {study.pk} of patient {study.patient.pseudonym}: {study.get_state_display()}")
            if options["wait"] or options["run_here"]:
                self._wait(request_id, Namespace(**options), [study.pk for study in result.studies])

    def _say(self, text: str) -> None:
        self.stdout.write(f"[{time.monotonic() - self.began:7.1f} s] {text}")
        self.stdout.flush()

    def _report(self, step: Step) -> None:
        if step.state == JobState.RUNNING:
            self._say(f"{step.kind}: {step.progress:4.0%} {step.text}")
        elif step.state == JobState.DONE and step.seconds is not None:
            self._say(f"{step.kind}: done in {step.seconds:.1f} s")
        elif step.state != JobState.WAITING or step.error:
            self._say(f"{step.kind}: {step.state}. {step.error}")

    def _wait(self, request_id: str, options: Namespace, studies: list[Any]) -> None:
        if not options.run_here and not workers_alive():
            raise CommandError("no worker is running: start the service (manage.py run), or add --run-here")
        try:
            steps = watch(request_id, self._report, run_here=options.run_here, timeout_s=options.timeout)
        except TimeoutError:
            raise CommandError(f"not finished after {options.timeout:.0f} s; the jobs go on") from None
        self.stdout.write("Time per step")
        for step in steps:
            self.stdout.write(
                f"  {step.kind:<34}{'' if step.seconds is None else f'{step.seconds:8.1f} s'}  {step.state}"
            )
        if any(step.state in (JobState.FAILED, JobState.DEAD) for step in steps):
            raise CommandError("a step failed; see above")
        flagged = False
        for study in Study.objects.filter(pk__in=studies):
            self._say(f"study {study.pk}: {study.get_state_display()}. {study.flag_message}".strip())
            flagged |= study.state == StudyState.FLAGGED
        if flagged:
            sys.exit(2)


def _day(text: str) -> date:
    return date.fromisoformat(text)


def _declaration(options: Namespace) -> Declaration:
    sequences: dict[str, Path] = {}
    for entry in options.sequence:
        name, separator, file = entry.partition("=")
        if not separator or not Path(file).is_file():
            raise CommandError(f"--sequence {entry}: write NAME=FILE, and FILE must exist")
        if name in sequences:
            raise CommandError(f"--sequence {name} is given twice")
        sequences[name] = Path(file)
    return Declaration(
        mrn=options.patient.strip(),
        authority=options.authority.strip(),
        family=options.family,
        given=options.given,
        birth_date=options.birth_date,
        sex=options.sex,
        day=options.date,
        sequences=sequences,
        spacing_known=not options.spacing_unknown,
        geometry_confirmed=options.geometry_confirmed,
    )
