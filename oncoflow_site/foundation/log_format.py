"""Log lines of the service: exceptions as frames, never with their message or a value."""

from __future__ import annotations

import logging
from types import TracebackType

from oncoflow_site.foundation.errors import error_frames

__all__ = ["FramesFormatter"]


class FramesFormatter(logging.Formatter):
    """The standard formatter, but for the traceback of an exception.

    A library, or Django for a page that fails, logs with ``exc_info``; the standard text of that ends in the message of
    the exception, which may quote the patient's data that it choked on.
    """

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        """File, line and function of each frame, in one line."""
        return "" if ei[1] is None else error_frames(ei[1])
