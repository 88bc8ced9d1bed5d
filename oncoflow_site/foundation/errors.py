"""Error types shared by every room.

Two families, never mixed: `UserVisibleError` is written for the person in front of the screen, `EngineError` for
whoever runs the service. Neither may carry anything that identifies a patient: both end up in logs and database rows.
"""

from __future__ import annotations

import traceback
from pathlib import PurePath
from typing import TypeVar

__all__ = [
    "EndpointError",
    "EngineError",
    "IllegalMove",
    "KeyDestroyed",
    "LostLease",
    "PermanentError",
    "TransientError",
    "UserVisibleError",
    "error_frames",
    "required",
    "safe_error_text",
]


T = TypeVar("T")


class UserVisibleError(Exception):
    """Something a person can understand and act on.

    :param message: what was wrong, one sentence, free of patient identity.
    :param what_to_do: what the reader can do about it.
    :param code: short stable machine name, e.g. ``"study-incomplete"``.
    """

    def __init__(self, message: str, *, what_to_do: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.what_to_do = what_to_do
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.what_to_do}".strip()


class EngineError(Exception):
    """Base of the errors meant for whoever runs the service. The message must be free of patient identity."""


class TransientError(EngineError):
    """May succeed when tried again (peer unreachable, lock not obtained, resource busy).

    :param retry_after: seconds to wait at least, when the peer said so (HTTP ``Retry-After``).
    :param code: the peer's answer code, when there was one.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None, code: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.code = code


class EndpointError(TransientError):
    """The way to an endpoint is at fault (nobody there, not let in, switched off), not what was to be sent.

    :param passing: such faults often pass by themselves (connection, maintenance): a person is called only if it lasts.
    :param alarm: False where a person did it on purpose, so nobody needs to be called.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        code: str = "",
        passing: bool = True,
        alarm: bool = True,
    ) -> None:
        super().__init__(message, retry_after=retry_after, code=code)
        self.passing = passing
        self.alarm = alarm


class PermanentError(EngineError):
    """Will fail again however often it is tried (rejected by the peer, malformed, erased).

    :param code: the peer's answer code, when there was one.
    """

    def __init__(self, message: str = "", *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class LostLease(EngineError):
    """This attempt no longer holds its job: another attempt has it, or it was cancelled. Nothing was written."""


class IllegalMove(EngineError):
    """A state machine was asked for a move that its table does not have."""


class KeyDestroyed(PermanentError):
    """The subject's data key was destroyed on purpose; what it encrypted cannot be read any more."""


def required(value: T | None, what: str) -> T:
    """``value``, which must be there by what was checked before it.

    :param what: names it for whoever runs the service. :raises EngineError: it is None; python -O does not take this away.
    """
    if value is None:
        raise EngineError(f"{what} is missing")
    return value


def safe_error_text(error: BaseException, limit: int = 500) -> str:
    """Text of ``error`` that may be stored and logged.

    The messages of our own error types are written to be free of patient identity; anybody else's message may quote the
    data it choked on, so of those only the type and the place in the code are kept.
    """
    if isinstance(error, (UserVisibleError, EngineError)):
        text = str(error) or type(error).__name__
    else:
        text = type(error).__name__
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is not None:
            module = frame.tb_frame.f_globals.get("__name__", "?")
            text = f"{text} at {module}:{frame.tb_lineno}"
    return text[:limit]


_MOST_FRAMES = 40


def error_frames(error: BaseException) -> str:
    """Where ``error`` and what caused it came from, innermost call first, in one line that may be logged.

    File, line and function of each frame and the types of the errors: no message, no value, no line of source, for
    these may hold what the code was working on.
    """
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < 5:
        walked = traceback.walk_tb(current.__traceback__)
        frames = traceback.StackSummary.extract(walked, limit=-_MOST_FRAMES, lookup_lines=False, capture_locals=False)
        places = [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in reversed(frames)]
        parts.append(" < ".join([type(current).__name__, *places]))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return " | because of ".join(parts)


def _short(filename: str) -> str:
    """The last three parts of a path: enough to find the file, and the same wherever the service is installed."""
    return "/".join(PurePath(filename).parts[-3:])
