"""The model registry: weights folders -> `ModelVersion` rows with their standing, and every change of it on record.

The standing follows from the recorded evaluation. A vote earned on simulated patients only counts in demo mode; otherwise
such a model is an adviser, and its row says why. A standing that a person set stays until a person changes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from audit import services as audit
from imaging.assessable import assessable
from inference.experts.base import REGIONS, SEQUENCES, ExpertError, read_model_json, sha256_of, verify_weights
from inference.experts.needs import read_evaluation, subset_of
from inference.gate import votes_from_evaluation
from inference.models import ModelStatus, ModelStatusChange, ModelVersion
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = [
    "REGISTRY",
    "panel_specs",
    "register",
    "register_panel",
    "role_on",
    "set_status",
    "standing",
    "verify",
    "warnings",
]

REGISTRY = "registry"
"""Author of standings that follow from an evaluation."""

_SIMULATED = "simulated"


def panel_specs() -> list[dict[str, Any]]:
    """The experts of the panel as configured: ``name``, ``kind``, ``weights_dir``."""
    return list(settings.ONCOFLOW_PANEL)


def simulated_only(description: Mapping[str, Any]) -> bool:
    """Whether model.json says that the model has seen simulated patients only (or does not say what it has seen)."""
    trained_on = str(description.get("trained_on", "")).lower()
    return not trained_on or _SIMULATED in trained_on


def standing(evaluation: Mapping[str, Any], *, simulated: bool, regions: Sequence[str] = REGIONS) -> tuple[str, str]:
    """(status, reason) that an evaluation earns under the present settings."""
    if not evaluation:
        return ModelStatus.ADVISER, "No evaluation is recorded."
    vote, reasons = votes_from_evaluation(evaluation, settings.ONCOFLOW_VOTE_THRESHOLDS, regions)
    reason = " ".join(reasons)
    if vote != ModelStatus.VOTER:
        return ModelStatus.ADVISER, reason
    if simulated and not settings.ONCOFLOW_DEMO_MODE:
        return (
            ModelStatus.ADVISER,
            f"Evaluated on simulated patients only; such a vote counts in demo mode alone. {reason}".strip(),
        )
    if simulated:
        return ModelStatus.VOTER, f"DEMO: the vote was earned on simulated patients. {reason}".strip()
    return ModelStatus.VOTER, reason


def role_on(row: ModelVersion, sequences: Sequence[str]) -> str:
    """A version's part in a panel over these sequences: its standing; where some are missing, a vote only if it was earned
    on just this combination."""
    if row.status != ModelStatus.VOTER or set(sequences) >= set(SEQUENCES):
        return str(row.status)
    earned, _ = standing(
        subset_of(row.evaluation, sequences), simulated=row.demo_only, regions=assessable(sequences).regions
    )
    return earned


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
    }
    try:
        with transaction.atomic():
            row, created = ModelVersion.objects.get_or_create(
                **key, defaults={**values, "status": status, "status_reason": reason[:1000]}
            )
            if created:
                _record_change(row, "", status, REGISTRY, reason)
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
    last = row.status_changes.first()
    by_person = last is not None and last.who != REGISTRY
    if row.status == ModelStatus.VOTER and status != ModelStatus.VOTER:
        by_person = False  # a vote needs what earned it, whoever confirmed it
    if not by_person and (row.status != status or row.status_reason != reason[:1000]):
        _set(row, status, who=REGISTRY, why=reason)
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


def set_status(
    row: ModelVersion, status: str, *, who: str, why: str, evidence: Mapping[str, Any] | None = None
) -> ModelVersion:
    """Change a standing by a person's decision. A vote is earned by an evaluation and cannot be given without one.

    :param evidence: on what cases it was decided; the model's recorded evaluation where nothing is said.
    :raises UserVisibleError: unknown standing, no reason given, or a vote that the evaluation has not earned.
    """
    if status not in ModelStatus.values:
        raise UserVisibleError(f"{status!r} is no standing.", what_to_do="Choose voter, adviser or disabled.")
    if not why.strip():
        raise UserVisibleError("A change of a model's standing needs a reason.", what_to_do="Give the reason.")
    if status == ModelStatus.VOTER:
        earned, reason = standing(row.evaluation, simulated=row.demo_only)
        if earned != ModelStatus.VOTER:
            raise UserVisibleError(
                f"{row} has not earned a vote: {reason}",
                what_to_do="Evaluate it on held-out cases and register it again.",
                code="no-vote",
            )
    _set(row, status, who=who, why=why, evidence=evidence)
    return row


def evidence_of(row: ModelVersion) -> dict[str, Any]:
    """The evaluation of a model version as its standing's evidence: data set, digest, figures, names of the cases."""
    evaluation = row.evaluation
    if not evaluation:
        return {}
    canonical = json.dumps(evaluation, sort_keys=True, separators=(",", ":")).encode()
    cases = [one.get("name") for one in evaluation.get("cases", []) if isinstance(one, Mapping)]
    return {
        "evaluation_sha256": hashlib.sha256(canonical).hexdigest(),
        "dataset": evaluation.get("dataset", ""),
        "evaluated": evaluation.get("evaluated", ""),
        "regions": evaluation.get("regions", {}),
        "cases": cases,
    }


def _set(row: ModelVersion, status: str, *, who: str, why: str, evidence: Mapping[str, Any] | None = None) -> None:
    with transaction.atomic():
        before = row.status
        row.status, row.status_reason = status, why[:1000]
        row.save(update_fields=["status", "status_reason"])
        if before != status:
            _record_change(row, before, status, who, why, evidence)
            audit.record(
                "model.status",
                action="U",
                resource=f"model:{row.pk}",
                detail={"from": before, "to": status, "model": row.name},
                source="worker",
            )


def _record_change(
    row: ModelVersion, before: str, after: str, who: str, why: str, evidence: Mapping[str, Any] | None = None
) -> None:
    ModelStatusChange.objects.create(
        model=row,
        from_status=before,
        to_status=after,
        who=who[:150],
        why=why[:1000],
        evidence=evidence_of(row) if evidence is None else dict(evidence),
    )
