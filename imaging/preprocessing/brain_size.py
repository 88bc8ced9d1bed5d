"""How large a brain is, in millilitres: what a mask of one may measure, and what the models' adults measure."""

from __future__ import annotations

from typing import Final

__all__ = ["ADULT_BRAIN_ML", "BRAIN_ML"]

BRAIN_ML: Final = (600.0, 2000.0)
"""Outside of it a mask is no brain's."""
ADULT_BRAIN_ML: Final = (800.0, 2000.0)
"""Outside of it a brain is unlike those that the models were trained on."""
