"""Facts that the inference room records. What follows them is said in the workflow of the service."""

from __future__ import annotations

from oncoflow_site.foundation.events import declare_event

__all__ = ["CONSENSUS_CHOSEN", "DEMOTION_PROPOSED", "PANEL_CANCELLED", "PANEL_CONCLUDED", "PANEL_MANUAL"]

PANEL_CONCLUDED = "panel.concluded"
"""A panel has a consensus mask. Payload: study_id, panel_run_id."""

PANEL_MANUAL = "panel.manual"
"""A panel is over, and a person has to outline the tumour. Payload: study_id, panel_run_id."""

PANEL_CANCELLED = "panel.cancelled"
"""A person stopped a panel. Payload: study_id, panel_run_id."""

CONSENSUS_CHOSEN = "consensus.chosen"
"""A person's choice of experts and fusion became the panel's consensus. Payload: study_id, panel_run_id, segmentation_id."""

DEMOTION_PROPOSED = "model.demotion_proposed"
"""A voter's reviewed cases fell below its evaluation; a person has to decide. Payload: proposal_id."""

for _kind in (PANEL_CONCLUDED, PANEL_MANUAL, PANEL_CANCELLED, CONSENSUS_CHOSEN, DEMOTION_PROPOSED):
    declare_event(_kind)
