"""What the imaging room keeps. One module a subject; everything is imported from here."""

from imaging.models.archive import (
    INSTANCE_MACHINE,
    DicomPeer,
    Instance,
    InstanceState,
    MrSequence,
    PriorsBy,
    QuarantinedInstance,
    Series,
    Study,
    StudyPurpose,
    StudySource,
)
from imaging.models.deidentification import DeidentificationReport, PixelRelease
from imaging.models.exchange import (
    COMMITMENT_MACHINE,
    PRIOR_MACHINE,
    CommitmentRequest,
    CommitmentState,
    PriorState,
    PriorStudy,
)
from imaging.models.faces import DefacedInstance, FaceRemoval
from imaging.models.findings import FindingSeverity, StudyFinding
from imaging.models.intake import INTAKE_MACHINE, IntakeFile, IntakeState
from imaging.models.protocols import ProtocolRule
from imaging.models.published import PublishedInstance
from imaging.models.results import (
    Comparison,
    Measurement,
    OutlineAcceptance,
    Segmentation,
    SegmentationKind,
    Volume,
    VolumeSet,
)
from imaging.models.uploads import Upload, UploadFile, UploadPart
from imaging.models.volume_facts import Alignment, Anatomy, Volumetry
from imaging.states import STUDY_MACHINE, UPLOAD_MACHINE, StudyState, UploadState

__all__ = [
    "COMMITMENT_MACHINE",
    "INSTANCE_MACHINE",
    "INTAKE_MACHINE",
    "PRIOR_MACHINE",
    "STUDY_MACHINE",
    "UPLOAD_MACHINE",
    "Alignment",
    "Anatomy",
    "CommitmentRequest",
    "CommitmentState",
    "Comparison",
    "DefacedInstance",
    "DeidentificationReport",
    "DicomPeer",
    "FaceRemoval",
    "FindingSeverity",
    "Instance",
    "InstanceState",
    "IntakeFile",
    "IntakeState",
    "Measurement",
    "MrSequence",
    "OutlineAcceptance",
    "PixelRelease",
    "PriorState",
    "PriorStudy",
    "PriorsBy",
    "ProtocolRule",
    "PublishedInstance",
    "QuarantinedInstance",
    "Segmentation",
    "SegmentationKind",
    "Series",
    "Study",
    "StudyFinding",
    "StudyPurpose",
    "StudySource",
    "StudyState",
    "Upload",
    "UploadFile",
    "UploadPart",
    "UploadState",
    "Volume",
    "VolumeSet",
    "Volumetry",
]
