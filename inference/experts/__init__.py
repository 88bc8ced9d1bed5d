"""Segmentation experts: one folder each, one interface (base.py)."""
