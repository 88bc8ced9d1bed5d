"""What the imaging room keeps. One module a subject; everything is imported from here."""

from imaging.machines import STUDY_MACHINE, StudyState
from imaging.models.archive import (
    DicomPeer,
    Instance,
    InstanceState,
    Sequence,
    Series,
    Study,
    StudySource,
)
from imaging.models.protocols import ProtocolRule
from imaging.models.results import Comparison, Measurement, Segmentation, SegmentationKind, Volume, VolumeSet

__all__ = [
    "STUDY_MACHINE",
    "Comparison",
    "DicomPeer",
    "Instance",
    "InstanceState",
    "Measurement",
    "ProtocolRule",
    "Segmentation",
    "SegmentationKind",
    "Sequence",
    "Series",
    "Study",
    "StudySource",
    "StudyState",
    "Volume",
    "VolumeSet",
]
