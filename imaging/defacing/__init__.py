"""Copies of head images without a face."""
