"""The process inside the installation of `test_pipeline_survives`: what `tests.durability.helper` does, for the whole
service.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.durability import helper

# isort: split
from django.conf import settings
from django.core.management import call_command
from django.db import transaction
from django.db.models import F

from audit.models import AuditRow
from clinical import services as clinical
from clinical.access import assign
from clinical.identity import Identifier, IdentityData, OrderIdentity
from clinical.models import User
from imaging.archive.store_instance import ReceiveCache, store_instance
from imaging.models import (
    Comparison,
    Instance,
    Measurement,
    PublishedInstance,
    Segmentation,
    Study,
    StudySource,
    Volume,
    VolumeSet,
)
from imaging.recognition.overrides import override_sequence
from inference.models import ExpertRun, PanelRun
from oncoflow_site.foundation import jobs, objects, worker
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.models import Delivery, Event, Job, StoredObject, WorkerHeartbeat
from reports.models import Report, ReportVersion
from reports.signing.keyring import trust_pem
from reports.signing.verify import verify
from tests.factories import painted_files as painted_study

OPEN = ("waiting", "running")
# What the jobs import when they run: here before workers are forked, so that not each of them has to.
for _module in (
    "fhir_api.delivery.deliver",
    "imaging.longitudinal.measure_study",
    "imaging.longitudinal.compare_study",
    "imaging.volumes.prepare",
    "inference.panel.conclude",
    "inference.panel.convene",
    "inference.panel.run_expert",
    "reports.lifecycle.draft",
    "reports.lifecycle.release",
):
    importlib.import_module(_module)


def prepare(fhir: str, mllp: str) -> None:
    """Tables, keys, seal, endpoints, weights; one patient with an order for each of the two studies."""
    helper.prepare()
    call_command("init_signing", stdout=sys.stderr)
    call_command("add_endpoint", "emr-fhir", "fhir", fhir, stdout=sys.stderr)
    call_command("add_endpoint", "emr-mllp", "mllp", mllp, stdout=sys.stderr)
    for spec in settings.ONCOFLOW_PANEL:
        painted_study.write_weights(Path(spec["weights_dir"]))
    authority = settings.ONCOFLOW_ASSIGNING_AUTHORITY
    identity = IdentityData(
        family="Quastenflosser",
        given="Hildegund",
        birth_date=None,
        sex="F",
        identifiers=(Identifier(authority, painted_study.MRN),),
    )
    person = clinical.register_patient(identity, source="command")
    for number in painted_study.DATES:
        clinical.accept_order(
            person,
            OrderIdentity(accession=f"ACC-{number}", placer_number=f"P{number}", placer_authority="EMR"),
            priority="routine",
            procedure_code="MRBRAIN",
            procedure_text="MR brain with contrast",
            requested_at=now(),
            source="mllp",
            peer="EMR",
        )
    jobs.run_pending()


def receive(number: int) -> str:
    """The images of study ``number`` arrive; returns the study's id."""
    cache = ReceiveCache()
    stored = [
        store_instance(data, source=StudySource.DICOM, peer="SCANNER", cache=cache)
        for data in painted_study.files(number)
    ]
    assert not [one for one in stored if one.status or one.quarantined], stored[0]
    return str(stored[0].study_id)


def swap(study_id: str, one: str, other: str) -> dict[str, str]:
    """A person says that the two series show each other's sequence, one after the other; series id by new sequence."""
    person = User.objects.create_user("tess", password=None, role="technician")
    study = Study.objects.get(pk=study_id)
    assign(person, study.patient, reason="acquired the images", by=None)
    series = {row.sequence: row for row in study.series.all()}
    for row, says in ((series[one], other), (series[other], one)):
        override_sequence(row, says, by=person)
    return {other: str(series[one].pk), one: str(series[other].pk)}


def sources(study_id: str) -> dict[str, Any]:
    """The study's state, its volume sets and the series of each volume of the newest; preparations in their order."""
    study = Study.objects.get(pk=study_id)
    newest = study.volume_sets.order_by("-version").first()
    volumes = newest.volumes.values_list("sequence", "source_series") if newest else ()
    preparations = Job.objects.filter(kind="imaging.prepare_study", subject=study.subject)
    spans = list(preparations.filter(state="done").order_by("started_at").values_list("started_at", "finished_at"))
    return {
        "state": study.state,
        "versions": study.volume_sets.count(),
        "series": {name: str(series) for name, series in volumes},
        "done": len(spans),
        "open": preparations.filter(state__in=OPEN).count(),
        "overlap": any(later[0] < earlier[1] for earlier, later in pairwise(spans)),
    }


def one_thread() -> None:
    """Workers started from now on do one job after the other, so that a failpoint strikes the job it is meant for."""
    worker.DEFAULT_THREADS.update(dict.fromkeys(worker.DEFAULT_THREADS, 1))


def many_threads() -> None:
    """Workers started from now on are as in production."""
    worker.DEFAULT_THREADS.update(default=2, gpu=1, delivery=2)


def bury(queue: str) -> str:
    """After the only worker of ``queue`` was killed: which kind of job it had claimed last.

    Time is made to pass, a minute or two of it: the leases of the dead worker end and lost wake-ups are old enough to be
    repeated. And jobs get more lives than the five they have, for here they are killed more often.
    """
    last = Job.objects.filter(queue=queue, started_at__isnull=False).order_by("-started_at").first()
    moment = now()
    with transaction.atomic():
        Job.objects.filter(state__in=OPEN).update(max_attempts=1000)
        Job.objects.filter(queue=queue, state="running").update(lease_until=moment)
        Job.objects.filter(state="waiting", woken_at__isnull=False).update(
            woken_at=F("woken_at") - timedelta(minutes=2)
        )
    return last.kind if last else ""


def unsettled() -> list[str]:
    """Jobs that are open (but for reminders due later), deliveries that have not arrived."""
    open_jobs = Job.objects.filter(state__in=OPEN, run_after__lte=now() + timedelta(minutes=2))
    return [
        *(f"{job.kind} {job.state} {job.attempts} {job.error}" for job in open_jobs),
        *(f"delivery {one.state} {one.last_error}" for one in Delivery.objects.exclude(state="delivered")),
    ]


def alive(*pids: int) -> bool:
    """Whether each of these workers has given a sign of life."""
    names = list(WorkerHeartbeat.objects.values_list("worker", flat=True))
    return all(any(f":{pid}:" in name for name in names) for pid in pids)


def look(study_id: str) -> dict[str, Any]:
    """Count everything there is about one study."""
    study = Study.objects.get(pk=study_id)
    report = Report.objects.get(study=study)
    versions = list(ReportVersion.objects.filter(report=report))
    subjects = [study.subject, report.subject]
    deliveries = Delivery.objects.filter(subject=report.subject)
    mine = {"subject__in": subjects}
    facts = {
        "study": [study.state, "matched" if study.order_id else "unsolicited"],
        "instances": Counter(Instance.objects.filter(study=study).values_list("state", flat=True)),
        "volume_sets": VolumeSet.objects.filter(study=study).count(),
        "volumes": sorted(Volume.objects.filter(volume_set__study=study).values_list("sequence", flat=True)),
        "panels": [[panel.state, panel.band, panel.reasons] for panel in PanelRun.objects.filter(study=study)],
        "experts": sorted(
            ExpertRun.objects.filter(panel_run__study=study).values_list("expert", "state", "role"), key=str
        ),
        "segmentations": sorted(Segmentation.objects.filter(study=study).values_list("kind", "author")),
        "published": PublishedInstance.objects.filter(study=study).count(),
        "measurements": Measurement.objects.filter(study=study).count(),
        "reports": Report.objects.filter(study=study).count(),
        "versions": [[one.number, one.status, one.signature_kind] for one in versions],
        "seals": [verify(objects.get(one.pdf), trust_pem()).valid for one in versions if one.pdf],
        "deliveries": sorted(deliveries.values_list("endpoint", "sequence", "state")),
        "events": Counter(Event.objects.filter(**mine).values_list("kind", flat=True)),
        "jobs": Counter(f"{kind} {state}" for kind, state in Job.objects.filter(**mine).values_list("kind", "state")),
        # Each attempt that reads identity says so; what was done must be said once.
        "audit": Counter(
            AuditRow.objects.filter(resource__in=subjects).exclude(action="R").values_list("event", flat=True)
        ),
    }
    return {
        "facts": facts,
        "compared_with": [
            str(one.prior_study_id) if one.prior_study_id else None for one in Comparison.objects.filter(study=study)
        ],
        "report_id": str(report.pk),
        "pdf_sha256": versions[-1].pdf_sha256,
    }


def house() -> dict[str, Any]:
    """What is stored: which objects, which cannot be read, what the janitor finds."""
    folder = Path(settings.STORAGES["objects"]["OPTIONS"]["location"])
    rows = list(StoredObject.objects.all())
    names = {row.storage_name for row in rows}

    def stored() -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    orphans = len(stored() - names)
    swept = objects.janitor(before=now() + timedelta(seconds=1))
    return {
        "swept": swept,
        "orphans": orphans,
        "left": sorted(stored() - names),
        "lost": sorted(names - stored()),
        "unreadable": sum(len(objects.get(row)) != row.size for row in rows),
        "objects": Counter(row.kind for row in rows),
        "failed": [f"{one.kind} {one.error}" for one in Job.objects.filter(state__in=("failed", "dead"))],
    }


def pdf_is_valid(path: str) -> bool:
    """Verify the signature of a PDF as it was received."""
    return verify(Path(path).read_bytes(), trust_pem()).valid


COMMANDS = {
    **helper.COMMANDS,
    "prepare": prepare,
    "receive": receive,
    "one_thread": one_thread,
    "many_threads": many_threads,
    "bury": bury,
    "swap": swap,
    "sources": sources,
    "unsettled": unsettled,
    "alive": alive,
    "look": look,
    "house": house,
    "pdf_is_valid": pdf_is_valid,
}

if __name__ == "__main__":
    while line := sys.stdin.readline():
        name, arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), flush=True)  # type: ignore[operator]
