"""Evaluation on held-out cases."""
