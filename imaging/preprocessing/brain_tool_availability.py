"""Whether the tool for brain extraction that a hospital names is there. Imports nothing heavy: the system checks load it."""

from __future__ import annotations

import importlib
import shutil

__all__ = ["HD_BET", "brain_tool_problem"]

HD_BET = "hd-bet"


def brain_tool_problem(name: str) -> str:
    """Why the tool that ``name`` (ONCOFLOW_BRAIN_MASK) names cannot be used; empty when it can."""
    if name == "classical":
        return ""
    if name == "hd-bet":
        return "" if shutil.which(HD_BET) else "ONCOFLOW_BRAIN_MASK is hd-bet, but no command hd-bet is installed"
    module, colon, function = name.partition(":")
    if not colon:
        return "ONCOFLOW_BRAIN_MASK is none of classical, hd-bet and module:function"
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # a plug-in's import may raise anything
        return f"ONCOFLOW_BRAIN_MASK names {module}, which cannot be imported ({type(error).__name__})"
    return "" if callable(found) else f"ONCOFLOW_BRAIN_MASK names {name}, which is no function"
