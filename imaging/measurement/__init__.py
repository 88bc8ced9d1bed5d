"""Volumes, diameters, lesions, their place, midline shift. Pure."""
