"""Files brought in: upload sessions, watched folders, NIfTI, what a person declares about them."""
