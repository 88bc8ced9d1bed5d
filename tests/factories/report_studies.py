"""A patient with studies, volumes, masks, measurements and a panel, as the lower rooms leave them. Small arrays, real storage."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from django.db import transaction

from clinical.identity import Identifier, IdentityData, OrderIdentity
from clinical.models import Order, Patient, User
from clinical.services import accept_order, assign, register_patient
from imaging.geometry.grid import Grid
from imaging.geometry.nifti import write_nifti
from imaging.models import Comparison, Measurement, Study, Volume, VolumeSet
from imaging.segmentation.label_maps import save_segmentation, write_labels
from inference.models import ExpertRun, PanelRun
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_uid
from tests.factories import report_content as samples

PASSWORD = "correct horse battery staple"
_numbers = itertools.count(1)


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """(volume, labels) (z, y, x): a bright ball in a dim one, labelled 2, 1, 3 from outside in."""
    z, y, x = np.mgrid[:24, :28, :26]
    head = ((z - 12) / 11) ** 2 + ((y - 14) / 13) ** 2 + ((x - 13) / 12) ** 2 < 1
    distance = np.sqrt((z - 14.0) ** 2 + (y - 16.0) ** 2 + (x - 17.0) ** 2)
    volume = (head * (100 + 40 * np.sin(x / 2.0))).astype(np.float32)
    labels = np.zeros(volume.shape, dtype=np.uint8)
    labels[distance < 6] = 2
    labels[distance < 4] = 3
    labels[distance < 2] = 1
    volume[labels == 3] = 300
    return volume, labels


@pytest.fixture
def patient(db: None) -> Patient:
    """A registered patient with a name that needs more than ASCII."""
    number = next(_numbers)
    return register_patient(
        IdentityData(
            family="Łukasiewicz",
            given="Zoë",
            birth_date=date(1961, 4, 3),
            sex="F",
            identifiers=(Identifier("DEMOHOSP", f"R{number:06d}"),),
        ),
        source="command",
    )


@pytest.fixture
def order(patient: Patient) -> Order:
    """An order with an accession number and a reason."""
    number = next(_numbers)
    identity = OrderIdentity(
        accession=f"ACC{number}",
        placer_number=f"P{number}",
        placer_authority="EMR",
        reason="Follow-up after radiochemotherapy; progression?",
        ordering_provider="Okafor, A.",
    )
    return accept_order(
        patient,
        identity,
        priority="routine",
        procedure_code="MRBRAIN",
        procedure_text="MR brain with contrast",
        requested_at=now(),
        source="mllp",
        peer="EMR",
    )


@pytest.fixture
def make_study(patient: Patient, order: Order) -> Callable[..., Study]:
    """``make_study(performed_at=...)``: a study with one volume set of T1c and FLAIR."""

    def make(performed_at: datetime | None = None, **more: Any) -> Study:
        study = Study.objects.create(
            patient=more.pop("patient", patient),
            order=more.pop("order", order),
            state="ready",
            uid_index=f"{next(_numbers):064d}",
            deidentified_uid=new_uid(),
            ciphertext=b"",
            performed_at=performed_at or datetime(2026, 8, 14, 10, 22, tzinfo=UTC),
            **more,
        )
        volume, _ = phantom()
        grid = Grid(np.eye(4), (26, 28, 24))
        volume_set = VolumeSet.objects.create(
            study=study, affine=np.eye(4).tolist(), shape=[26, 28, 24], spacing=[1.0, 1.0, 1.0]
        )
        for sequence in ("T1", "T1c", "T2", "FLAIR"):
            stored = objects.put(write_nifti(volume, grid), subject=study.patient.key_subject, kind="volume")
            Volume.objects.create(volume_set=volume_set, sequence=sequence, object=stored, sha256=stored.sha256)
        return study

    return make


@pytest.fixture
def make_measurement() -> Callable[..., Measurement]:
    """``make_measurement(study, band="issue", kind="consensus", prior=None)``: mask, measurement, comparison, panel."""

    def make(
        study: Study, *, band: str | None = "issue", kind: str = "consensus", prior: Measurement | None = None
    ) -> Measurement:
        volume_set = study.volume_sets.get()
        _, labels = phantom()
        facts = samples.rows()
        written = write_labels(study, volume_set, labels)
        with transaction.atomic():
            segmentation = save_segmentation(study, written, kind=kind, author="panel")
        measurement = Measurement.objects.create(
            study=study,
            segmentation=segmentation,
            regions=facts["findings"]["regions"],
            lesions=facts["findings"]["lesions"],
        )
        result = dict(facts["comparison"])
        for key in ("comparison_id", "prior_study_id", "prior_performed_at"):
            result.pop(key)
        Comparison.objects.create(
            study=study,
            measurement=measurement,
            prior_study=prior.study if prior else None,
            prior_measurement=prior,
            result=result if prior else {"regions": {}, "lesions": [], "response": {"category": "not assessed"}},
        )
        if band is not None:
            make_panel(study, volume_set, segmentation, band)
        return measurement

    return make


def make_panel(study: Study, volume_set: VolumeSet, segmentation: Any, band: str) -> PanelRun:
    """A concluded panel of two voters; the one that exists is kept."""
    panel, created = PanelRun.objects.get_or_create(
        volume_set=volume_set,
        defaults={
            "study": study,
            "state": "concluded",
            "fusion": "majority",
            "band": band,
            "consensus": segmentation,
            "agreement": {"a": 0.934, "region": "ET", "pairwise": [], "experts": {}},
            "gate": {"band": band, "a": 0.934, "region": "ET", "reasons": ["agreement 0.93"]},
            "demo": True,
            "concluded_at": now(),
        },
    )
    if created:
        for name in ("nnunet-plain", "nnunet-residual"):
            ExpertRun.objects.create(panel_run=panel, expert=name, role="voter", state="done", runtime_s=7.0)
    return panel


@pytest.fixture
def signing(db: None) -> Any:
    """The installation's authority and seal."""
    from reports.signing.keyring import init_signing

    return init_signing()


@pytest.fixture
def radiologist(patient: Patient, signing: Any) -> User:
    """A radiologist on the patient's care team, with a signing key."""
    from reports.signing.keyring import issue_personal_key

    user = User.objects.create_user(
        username=f"rad-{next(_numbers)}", role="radiologist", first_name="Rahel", last_name="Sommer"
    )
    assign(user, patient, reason="test", by=None)
    issue_personal_key(user, PASSWORD)
    return user
