"""Simulated neuro-oncology patients: anatomy, tumours, scanners. No person's data, and no Django."""
