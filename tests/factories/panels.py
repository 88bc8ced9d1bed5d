"""A panel of experts that find painted tumours, a study with such a tumour, and what a panel makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaging.brats.regions import labels_inner_wins
from imaging.geometry.nifti import write_nifti
from imaging.models import Segmentation, Study, StudyState, Volume, VolumeSet
from imaging.segmentation.label_maps import load_labels
from imaging.segmentation.manual_import import accept_label_map
from imaging.volumes.load import grid_of, load_volumes
from inference.experts.contract import Volumes
from inference.experts.factory import ExpertSpec
from inference.fusion.fuse import masks_of
from inference.models import (
    CaseEvaluation,
    ExpertState,
    ModelVersion,
    PanelRun,
    PanelState,
)
from inference.supervisor.server import Supervisor, SupervisorConfig, specs_from
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.jobs import enqueue, run_job, run_pending
from oncoflow_site.foundation.models import Job
from tests.factories import studies
from tests.factories.panel_experts import PaintReader
from tests.factories.studies import SMALL, brain_like, tumour

FACTORY = "tests.factories.panel_experts:make"
LESION = ((-20.0, 5.0, 5.0), 8.0, 14.0, 20.0)
GOOD = {"n": 30, "mean": 0.91, "p10": 0.80}
WEAK = {"n": 30, "mean": 0.60, "p10": 0.20}


def weights(
    folder: Path,
    name: str,
    numbers: dict | None = GOOD,
    trained_on: str = "simulated patients only",
    least_mm3: dict | None = None,
) -> Path:
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    (target / "w.bin").write_bytes(name.encode())
    import hashlib

    digest = hashlib.sha256(name.encode()).hexdigest()
    model = {"name": name, "version": "1.0", "architecture": "painted", "kind": "good", "files": {"w.bin": digest}}
    (target / "model.json").write_text(json.dumps(model | {"trained_on": trained_on, "minimum_mm3": least_mm3 or {}}))
    if numbers is not None:
        regions = dict.fromkeys(("ET", "TC", "WT"), numbers)
        (target / "evaluation.json").write_text(json.dumps({"regions": regions}))
    return target


Panel = Callable[..., Supervisor]


@pytest.fixture
def panel_of(tmp_path: Path, settings) -> Iterator[Panel]:
    """Start the real supervisor with experts (name, kind, evaluation numbers) and configure the panel accordingly."""
    running: list[Supervisor] = []

    def start(*experts: tuple[str, str, dict | None]) -> Supervisor:
        settings.ONCOFLOW_PANEL = [
            {"name": name, "kind": kind, "weights_dir": str(weights(tmp_path, name, numbers)), "factory": FACTORY}
            for name, kind, numbers in experts
        ]
        settings.ONCOFLOW_SUPERVISOR_KEY = tmp_path / "key"
        settings.ONCOFLOW_EXPERT_DEADLINE_S = 60
        config = SupervisorConfig(specs_from(settings.ONCOFLOW_PANEL), "127.0.0.1:0", tmp_path / "key")
        supervisor = Supervisor(config)
        supervisor.start()
        running.append(supervisor)
        settings.ONCOFLOW_SUPERVISOR_ADDRESS = supervisor.address
        return supervisor

    yield start
    for one in running:
        one.stop()


def painted(*lesions) -> tuple[Study, VolumeSet]:
    """A ready study whose FLAIR shows the lesions in the experts' paint."""
    person = studies.patient()
    study = studies.study_row(person, state=StudyState.READY)
    base = brain_like(SMALL)
    inside = base > 0
    rng = np.random.default_rng(2)
    labels = np.where(inside, tumour(SMALL, *lesions), 0)
    images = {
        "T1": base,
        "T1c": np.where(inside, base + rng.normal(0, 25, base.shape), 0),
        "T2": np.where(inside, 400 - base, 0),
        "FLAIR": np.where(inside, 60 + 0.3 * base + rng.normal(0, 5, base.shape), 0),
    }
    for label, paint in ((2, 600), (1, 700), (3, 800)):
        images["FLAIR"][labels == label] = paint
    volume_set = VolumeSet.objects.create(study=study, parameters={"reference": "T1c"}, **SMALL.to_json())
    mask = objects.put(write_nifti(inside.astype(np.uint8), SMALL), subject=person.key_subject, kind="brain-mask")
    VolumeSet.objects.filter(pk=volume_set.pk).update(brain_mask=mask)
    volume_set.refresh_from_db()
    for name, image in images.items():
        stored = objects.put(
            write_nifti(np.where(inside, image, 0).astype(np.float32), SMALL), subject=person.key_subject, kind="volume"
        )
        Volume.objects.create(volume_set=volume_set, sequence=name, object=stored, sha256=stored.sha256)
    return study, volume_set


def convene(study: Study) -> PanelRun:
    job = enqueue(
        "inference.convene_panel",
        subject=study.subject,
        key=f"test:{now().timestamp()}",
        kwargs={"study_id": str(study.pk)},
    )
    run_job(job.pk)
    return PanelRun.objects.get(study=study)


def play(study: Study) -> PanelRun:
    panel = convene(study)
    run_pending("gpu")
    panel.refresh_from_db()
    return panel


Settle = Callable[..., tuple[Study, PanelRun]]
Expert = tuple[str, str, dict | None] | tuple[str, str, dict | None, dict[str, float]]


@pytest.fixture
def settle(tmp_path: Path, settings) -> Settle:
    """``settle((name, kind, numbers[, limits in mm3]), ...)``: a study whose panel has concluded; the experts answered in
    this process."""

    def make(*experts: Expert) -> tuple[Study, PanelRun]:
        settings.ONCOFLOW_PANEL = [
            {"name": name, "kind": kind, "weights_dir": str(weights(tmp_path, name, numbers, least_mm3=dict(*least)))}
            for name, kind, numbers, *least in experts
        ]
        study, _ = painted(LESION)
        panel = convene(study)
        loaded = load_volumes(study)
        seen = Volumes(dict(loaded.images), loaded.grid.spacing_zyx(), loaded.brain_mask)
        for run in panel.expert_runs.all():
            kind = {name: kind for name, kind, *_ in experts}[run.expert]
            reader = PaintReader(ExpertSpec(run.expert, kind, str(tmp_path / run.expert)))
            reader.load()
            output = reader.predict(seen)
            made = studies.segment(
                study,
                panel.volume_set,
                labels_inner_wins(masks_of(output.probabilities)),
                "expert",
                run.expert,
                model={"name": run.expert, "version": "1.0"},
                probability=output.probabilities,
            )
            run.segmentation, run.state, run.runtime_s = made, ExpertState.DONE, output.runtime_s
            run.save()
        PanelRun.objects.update(state=PanelState.RUNNING)
        run_pending("gpu", limit=len(experts) + 1)
        panel.refresh_from_db()
        assert panel.state == PanelState.CONCLUDED, list(Job.objects.values_list("kind", "state", "error"))
        return study, panel

    return make


def review(study: Study, panel: PanelRun, *, shrink: int = 0) -> Segmentation:
    """A person's outline: the truth, with ``shrink`` layers of voxels eaten off."""
    from scipy import ndimage

    labels = load_labels(panel.consensus)
    if shrink:
        labels = np.where(ndimage.binary_erosion(labels > 0, iterations=shrink), labels, 0).astype(np.uint8)
    return accept_label_map(study, write_nifti(labels, grid_of(panel.volume_set)), author="dr", reason="checked")


def model_with_reviews(dice: list[float], *, status: str = "voter", name: str = "m") -> ModelVersion:
    """A registered model and one reviewed case for each figure (the same in each region), oldest first."""
    model = ModelVersion.objects.create(
        name=name,
        version="1",
        sha256="0" * 64,
        architecture="a",
        kind="nnunet",
        weights_dir="/x",
        status=status,
        evaluation={
            "regions": dict.fromkeys(("ET", "TC", "WT"), GOOD),
            "dataset": "held-out",
            "cases": [{"name": "c1"}],
        },
    )
    for value in dice:
        study = studies.study_row(studies.patient(), state=StudyState.READY)
        volume_set = VolumeSet.objects.create(study=study, **SMALL.to_json())
        panel = PanelRun.objects.create(study=study, volume_set=volume_set)
        empty = np.zeros(grid_of(volume_set).shape_zyx, np.uint8)
        own, reference = (studies.segment(study, volume_set, empty, kind, "x") for kind in ("expert", "person"))
        for region in ("ET", "TC", "WT"):
            CaseEvaluation.objects.create(
                study=study,
                panel_run=panel,
                expert="m",
                model_version=model,
                segmentation=own,
                reference=reference,
                reference_kind="reviewed",
                region=region,
                dice=value,
                iou=value,
            )
    return model


def evaluation(**subsets: dict[str, Any]) -> dict[str, Any]:
    """What evaluation.json holds: all four sequences, and some combinations of fewer."""
    shown = {"T1c": ("ET", "TC"), "FLAIR": ("WT",)}
    return {
        "regions": dict.fromkeys(("ET", "TC", "WT"), GOOD),
        "subsets": {
            key.replace("_", "+"): {"regions": dict.fromkeys(shown.get(key, ("ET", "TC", "WT")), numbers)}
            for key, numbers in subsets.items()
        },
    }
