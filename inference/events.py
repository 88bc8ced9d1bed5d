"""Facts that the inference room records. What follows them is said in the workflow of the service."""

from __future__ import annotations

from oncoflow_site.foundation.events import declare_event

__all__ = ["PANEL_CONCLUDED", "PANEL_MANUAL"]

PANEL_CONCLUDED = "panel.concluded"
"""A panel has a consensus mask. Payload: study_id, panel_run_id."""

PANEL_MANUAL = "panel.manual"
"""A panel is over, and a person has to outline the tumour. Payload: study_id, panel_run_id."""

declare_event(PANEL_CONCLUDED)
declare_event(PANEL_MANUAL)
