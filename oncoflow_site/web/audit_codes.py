"""Audit event codes of the pages."""

from audit.codes import declare_code

declare_code("web.overview", "The overview was opened")
declare_code("web.patient", "A patient's page was opened")
declare_code("web.study", "A study's page was opened")
declare_code("web.report", "A report's page was opened")
declare_code("web.document", "A document's page was opened")
declare_code("web.system", "The system page was opened")
declare_code("web.notice", "A notice was marked as seen")
declare_code("web.resend", "A delivery was sent again by a person")
declare_code("web.retry", "A job was started again by a person")
declare_code("web.quarantine", "The page of images kept apart was opened")
declare_code("web.bring_in", "The page for bringing in images was opened")
