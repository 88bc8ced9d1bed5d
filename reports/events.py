"""Facts this room records. What follows from them is said in ``oncoflow_site/workflow.py``."""

from __future__ import annotations

from oncoflow_site.foundation.events import declare_event

__all__ = ["REPORT_DRAFTED", "REPORT_HELD", "REPORT_ISSUED"]

REPORT_DRAFTED = "report.drafted"
"""A draft version exists. Payload: ``report_id``, ``version_id``."""
REPORT_HELD = "report.held"
"""A version waits for a radiologist. Payload: ``report_id``, ``version_id``."""
REPORT_ISSUED = "report.issued"
"""A version was sealed or signed and is to be delivered. Payload: ``report_id``, ``version_id``."""

for _kind in (REPORT_DRAFTED, REPORT_HELD, REPORT_ISSUED):
    declare_event(_kind)
