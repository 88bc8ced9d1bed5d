"""System checks of the imaging room (``manage.py check``). Imports nothing heavy: every process loads it."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

__all__ = ["HD_BET", "brain_tool_problem"]

HD_BET = "hd-bet"


def brain_tool_problem() -> str:
    """Why the tool that the setting names cannot be used; empty when it can."""
    name = settings.ONCOFLOW_BRAIN_MASK
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


@register("imaging")
def check_brain_tool(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """imaging.E010: the brain mask's tool is not there."""
    problem = brain_tool_problem()
    hint = "Install it, or set ONCOFLOW_BRAIN_MASK=classical."
    return [Error(problem, hint=hint, id="imaging.E010")] if problem else []
