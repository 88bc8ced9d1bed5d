"""What the inference room keeps."""

from inference.models.checks import StudyChecks
from inference.models.evaluations import CaseEvaluation, FusionWeights, ReferenceKind
from inference.models.panels import (
    EXPERT_MACHINE,
    FUSION_CHOICE_MACHINE,
    PANEL_MACHINE,
    Band,
    ExpertRun,
    ExpertState,
    FusionChoice,
    FusionChoiceState,
    PanelRun,
    PanelState,
)
from inference.models.versions import (
    PROPOSAL_MACHINE,
    ModelStatus,
    ModelStatusChange,
    ModelVersion,
    ProposalState,
    StandingProposal,
)

__all__ = [
    "EXPERT_MACHINE",
    "FUSION_CHOICE_MACHINE",
    "PANEL_MACHINE",
    "PROPOSAL_MACHINE",
    "Band",
    "CaseEvaluation",
    "ExpertRun",
    "ExpertState",
    "FusionChoice",
    "FusionChoiceState",
    "FusionWeights",
    "ModelStatus",
    "ModelStatusChange",
    "ModelVersion",
    "PanelRun",
    "PanelState",
    "ProposalState",
    "ReferenceKind",
    "StandingProposal",
    "StudyChecks",
]
