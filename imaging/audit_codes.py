"""Audit event codes of the imaging room."""

from __future__ import annotations

from audit.codes import declare_code

declare_code("study.receive", "Instances of a study were received")
declare_code("study.complete", "A study was complete")
declare_code("study.reopen", "A late instance reopened a study")
declare_code("study.match", "A study was linked to its order, or released from it")
declare_code("study.deidentify", "A study was de-identified")
declare_code("series.override", "A person said what a series shows")
declare_code("instance.quarantine", "An instance was quarantined")
declare_code("dicom.refuse", "A DICOM association or instance was refused")
