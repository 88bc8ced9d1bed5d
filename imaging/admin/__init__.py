"""Administration pages, registered when Django looks for a room's ``admin``."""

from imaging.admin import archive, deidentification, exchange, results

__all__ = ["archive", "deidentification", "exchange", "results"]
