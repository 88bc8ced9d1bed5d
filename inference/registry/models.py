"""Model versions: weights folders, verified, as `ModelVersion` rows with the standing that their evaluation earns.

What fusion and gate need of a version is frozen in its row: replaced weights do not change how older answers are fused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from audit import services as audit
from inference.experts.common.input_requirements import read_evaluation
from inference.experts.common.islands import minimum_volumes
from inference.experts.errors import ExpertError
from inference.experts.weights import DISTRIBUTION, read_model_json, sha256_of, verify_weights
from inference.models import ModelStatus, ModelVersion
from inference.registry.standing import REGISTRY, apply_status, record_status_change, standing
from oncoflow_site.foundation.environment import PanelEntry

__all__ = ["panel_specs", "panel_versions", "register", "register_panel", "verify", "warnings"]


"""Author of standings that follow from an evaluation."""


_SIMULATED = "simulated"


def panel_specs() -> list[PanelEntry]:
    """The experts of the panel as configured: ``name``, ``kind``, ``weights_dir``."""
    return list(settings.ONCOFLOW_PANEL)


def simulated_only(description: Mapping[str, Any]) -> bool:
    """Whether model.json says that the model has seen simulated patients only (or does not say what it has seen)."""
    trained_on = str(description.get("trained_on", "")).lower()
    return not trained_on or _SIMULATED in trained_on


def verify(folder: Path, pin: str | None = None) -> None:
    """Compare every file of a weights folder with its recorded SHA-256, and the record itself with ``pin``.

    :raises WeightsMissing: :raises WeightsMismatch: what is wrong, naming the file.
    """
    verify_weights(folder, pin)


def warnings(row: ModelVersion) -> list[str]:
    """What an operator should know of a version's folder: no model card, no longer what was registered."""
    folder = Path(row.weights_dir)
    found = []
    if not (folder / "MODEL_CARD.md").is_file():
        found.append("it has no model card (MODEL_CARD.md)")
    try:
        if sha256_of(folder / "model.json") != row.sha256:
            found.append("its folder holds another version by now")
    except OSError:
        found.append("its folder is gone")
    return found


def register(folder: Path, kind: str, pin: str | None = None) -> ModelVersion:
    """The row of the weights in ``folder``, verified, made or brought up to date. Safe to repeat and to run at once.

    :param pin: SHA-256 of model.json, where the configuration names it.
    :raises WeightsMissing: :raises WeightsMismatch:
    """
    version = verify_weights(folder, pin)
    description = read_model_json(folder)
    evaluation = read_evaluation(folder)
    simulated = simulated_only(description)
    status, reason = standing(evaluation, simulated=simulated)
    key = {"name": version.name, "version": version.version, "sha256": version.sha256}
    values = {
        "architecture": version.architecture[:200],
        "kind": kind,
        "evaluation": evaluation,
        "weights_dir": str(folder),
        "demo_only": simulated,
        "minimum_mm3": minimum_volumes(description),
        **_looks(folder),
    }
    try:
        with transaction.atomic():
            row, created = ModelVersion.objects.get_or_create(
                **key, defaults={**values, "status": status, "status_reason": reason[:1000]}
            )
            if created:
                record_status_change(row, "", status, REGISTRY, reason)
                audit.record(
                    "model.register",
                    action="C",
                    resource=f"model:{row.pk}",
                    detail={"model": row.name, "version": row.version, "sha256": row.sha256},
                    source="worker",
                )
                return row
    except IntegrityError:
        row = ModelVersion.objects.get(**key)
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    if changed:
        ModelVersion.objects.filter(pk=row.pk).update(**changed)
        row.refresh_from_db()
    _keep_standing(row, status, reason)
    return row


def _keep_standing(row: ModelVersion, status: str, reason: str) -> None:
    """Give the version the standing that its evaluation earns, unless a person decided on another."""
    last = row.status_changes.first()
    by_person = last is not None and last.who != REGISTRY
    if row.status == ModelStatus.VOTER and status != ModelStatus.VOTER:
        by_person = False  # a vote needs what earned it, whoever confirmed it
    if not by_person and (row.status != status or row.status_reason != reason[:1000]):
        apply_status(row, status, who=REGISTRY, why=reason)


def _looks(folder: Path) -> dict[str, Any]:
    """``distribution`` and ``distribution_sha256`` of a folder: what the model learned from, where that is recorded."""
    try:
        text = (folder / DISTRIBUTION).read_bytes()
        return {"distribution": json.loads(text), "distribution_sha256": hashlib.sha256(text).hexdigest()}
    except (OSError, ValueError):
        return {"distribution": None, "distribution_sha256": ""}


def panel_versions() -> dict[str, ModelVersion | None]:
    """The rows of the configured experts: name -> the version that its folder holds, or None when that is not usable.

    Weights are not read: they are hashed when they are registered, by `verify`, and by the expert that loads them. A
    version that was never registered is registered now.
    """
    return {str(spec["name"]): _panel_version(spec) for spec in panel_specs()}


def _panel_version(spec: Mapping[str, Any]) -> ModelVersion | None:
    folder, pin = Path(spec["weights_dir"]), spec.get("sha256")
    try:
        digest = sha256_of(folder / "model.json")
        if pin is not None and pin != digest:
            return None
        rows = ModelVersion.objects.filter(sha256=digest, weights_dir=str(folder), kind=str(spec["kind"]))
        row = rows.order_by("-registered_at").first()
        if row is None:
            return register(folder, str(spec["kind"]), pin)
    except (OSError, ExpertError):
        return None
    _keep_standing(row, *standing(row.evaluation, simulated=row.demo_only))
    return row


def register_panel() -> dict[str, ModelVersion | None]:
    """Register every configured expert: name -> its row, or None when its weights are not usable."""
    found: dict[str, ModelVersion | None] = {}
    for spec in panel_specs():
        try:
            found[str(spec["name"])] = register(Path(spec["weights_dir"]), str(spec["kind"]), spec.get("sha256"))
        except ExpertError:
            # One expert without its weights must not stop the others; its run will fail with the reason.
            found[str(spec["name"])] = None
    return found
