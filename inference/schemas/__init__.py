"""Facts of the room as typed schemas: the gate's decision, agreement, ways to fuse, a panel in summary. No Django, no torch."""
