"""Audit event codes of the imaging room."""

from __future__ import annotations

from audit.codes import declare_code

declare_code("study.receive", "Instances of a study were received")
declare_code("study.complete", "A study was complete")
declare_code("study.reopen", "A late instance reopened a study")
declare_code("study.match", "A study was linked to its order, or released from it")
declare_code("study.deidentify", "A study was de-identified")
declare_code("series.override", "A person said what a series shows")
declare_code("protocol.keep", "What a person said of a series was kept for its protocol")
declare_code("protocol.remove", "What was kept for a protocol was removed")
declare_code("instance.quarantine", "An instance was quarantined")
declare_code("dicom.refuse", "A DICOM association or instance was refused")
declare_code("study.flag", "A study was flagged: it cannot be segmented")
declare_code("study.prepare", "The volumes of a study were prepared")
declare_code("study.verify", "Volumes of a study were made again and compared with what is stored")
declare_code("study.measure", "A segmentation was measured and compared with earlier studies")
declare_code("segmentation.create", "A segmentation was stored")
declare_code("segmentation.person", "A person's segmentation was put in force")
declare_code("upload.create", "A person or program began to bring in images")
declare_code("upload.view", "The state of an upload was read")
declare_code("upload.presign", "An address for direct upload was given out")
declare_code("upload.complete", "All files of an upload were there")
declare_code("upload.file", "An upload was filed, or could not be")
declare_code("upload.withdraw", "An upload was withdrawn, or expired, and its bytes deleted")
declare_code("dicomweb.search", "Images were searched for through DICOMweb")
declare_code("dicomweb.read", "Images were read through DICOMweb")
declare_code("dicomweb.store", "Images were stored through DICOMweb")
declare_code("segmentation.publish", "A segmentation became a DICOM object")
