"""Exports for research: BIDS, NIfTI."""
