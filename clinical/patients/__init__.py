"""Whose is it: which numbers recognise a patient, contradictions, confirmation, merging and its reversal."""
