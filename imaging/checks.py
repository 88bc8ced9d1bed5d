"""System checks of the imaging room (``manage.py check``). Imports nothing heavy: every process loads it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from imaging.preprocessing.brain_tool_availability import brain_tool_problem

__all__ = ["check_brain_tool"]


@register("imaging")
def check_brain_tool(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """imaging.E010: the brain mask's tool is not there."""
    problem = brain_tool_problem(settings.ONCOFLOW_BRAIN_MASK)
    hint = "Install it, or set ONCOFLOW_BRAIN_MASK=classical."
    return [Error(problem, hint=hint, id="imaging.E010")] if problem else []
