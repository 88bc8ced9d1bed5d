"""Audit event codes of the REST interface and the pages."""

from audit.codes import declare_code

declare_code("study.list", "The list of studies was read")
declare_code("study.view", "A study was read")
declare_code("study.slices", "Slices of a study were looked at")
declare_code("study.progress", "The progress of a study was watched")
declare_code("volume.read", "A de-identified volume was downloaded")
declare_code("segmentation.read", "A segmentation was downloaded")
declare_code("report.read", "The PDF of a report was read")
declare_code("job.view", "A job was looked at")
declare_code("document.text", "The stored text of a document was read")
declare_code("study.refine", "Points or a box on a study were answered with a mask")
