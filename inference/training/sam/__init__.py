"""Training of a small SAM 2, and the limit of its object score."""
