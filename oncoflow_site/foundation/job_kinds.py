"""What kinds of jobs there are: the functions that rooms register, and what each says about its runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from oncoflow_site.foundation import huey_app

__all__ = ["JobKind", "job", "job_kinds", "known", "lookup", "parameters", "unknown"]

JobFunction = Callable[..., Any]
LONGEST_LOCK = 200


@dataclass(frozen=True)
class JobKind:
    """A registered kind of job.

    :param lease_s: seconds a claim is good for without a heartbeat.
    :param progress_deadline_s: seconds without `JobContext.progress` after which a running job counts as hung.
    :param locks: names from the job's ids what it works on; jobs of one name run one after another.
    :param on_dead: what becomes of the subject when a job ends for good without being done.
    """

    kind: str
    function: JobFunction
    queue: str
    max_attempts: int
    lease_s: float
    progress_deadline_s: float
    parameters: frozenset[str]
    required: frozenset[str]
    locks: Callable[..., str] | None = None
    on_dead: Callable[..., None] | None = None

    def lock_of(self, kwargs: Mapping[str, Any]) -> str:
        """Name of the lock of a job with these ids; empty when it needs none."""
        if self.locks is None:
            return ""
        name = self.locks(**_named(self.locks, kwargs, skip=0))
        if not name or len(name) > LONGEST_LOCK:
            raise ValueError(f"job {self.kind!r}: a lock's name has 1 to {LONGEST_LOCK} characters")
        return name

    def bury(self, row: Any) -> None:
        """Call ``on_dead`` with the row of the job that ended, in the caller's transaction."""
        if self.on_dead is not None:
            self.on_dead(row, **_named(self.on_dead, row.kwargs, skip=1))


_kinds: dict[str, JobKind] = {}


def _arguments(function: Callable[..., Any], skip: int) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())[skip:]


def _named(function: Callable[..., Any], kwargs: Mapping[str, Any], *, skip: int) -> dict[str, Any]:
    """Those of ``kwargs`` that ``function`` takes."""
    return {one.name: kwargs[one.name] for one in _arguments(function, skip) if one.name in kwargs}


def job(
    kind: str,
    *,
    queue: str = "default",
    max_attempts: int = 5,
    lease_s: float = 60.0,
    progress_deadline_s: float = 600.0,
    locks: Callable[..., str] | None = None,
    on_dead: Callable[..., None] | None = None,
) -> Callable[[JobFunction], JobFunction]:
    """Register ``def f(ctx: JobContext, *, study_id: str)`` as the work of jobs of ``kind``.

    Arguments after ``ctx`` are keyword-only ids. The function is returned unchanged.

    :param locks: ``lambda study_id: f"study-inputs:{study_id}"``: takes ids of the job by name and names what must not
        be worked on by two jobs at once, whatever their kinds. Of those that are due the one enqueued first runs first;
        the others wait as rows, without a thread and without losing an attempt.
    :param on_dead: ``def f(job: Job, *, study_id: str)``: called when a job ends as failed, dead or cancelled, in the
        transaction that ends it; it moves the subject to a state that people see and can restart. It may be called
        again (after a retry that fails too), and it changes rows only.
    """
    if queue not in huey_app.QUEUES:
        raise ValueError(f"job {kind!r}: unknown queue {queue!r}")

    def register(function: JobFunction) -> JobFunction:
        earlier = _kinds.get(kind)
        place = (function.__module__, function.__qualname__)
        if earlier is not None and (earlier.function.__module__, earlier.function.__qualname__) != place:
            raise ValueError(f"job {kind!r} is registered twice")
        arguments = _arguments(function, 1)
        if any(one.kind is not inspect.Parameter.KEYWORD_ONLY for one in arguments):
            raise TypeError(f"job {kind!r}: arguments after ctx must be keyword-only")
        names = frozenset(one.name for one in arguments)
        for what, hook, skip in (("locks", locks, 0), ("on_dead", on_dead, 1)):
            if hook is not None and (strange := {one.name for one in _arguments(hook, skip)} - names):
                raise TypeError(f"job {kind!r}: {what} takes {', '.join(sorted(strange))}, which is no id of the job")
        _kinds[kind] = JobKind(
            kind=kind,
            function=function,
            queue=queue,
            max_attempts=max_attempts,
            lease_s=lease_s,
            progress_deadline_s=progress_deadline_s,
            parameters=names,
            required=frozenset(one.name for one in arguments if one.default is inspect.Parameter.empty),
            locks=locks,
            on_dead=on_dead,
        )
        return function

    return register


def job_kinds() -> Mapping[str, JobKind]:
    """Every registered kind."""
    return MappingProxyType(_kinds)


def known(kind: str) -> JobKind | None:
    """The kind, or None when nobody registered it."""
    return _kinds.get(kind)


def lookup(kind: str) -> JobKind:
    """The kind; raises LookupError when nobody registered it."""
    try:
        return _kinds[kind]
    except KeyError:
        raise LookupError(f"no job is registered as {kind!r}") from None


def unknown(kind: str) -> JobKind:
    """Stands for a kind that nobody registered, so that its row can be kept and fail where people see it."""
    return JobKind(kind, lambda ctx: None, "default", 1, 60.0, 600.0, frozenset(), frozenset())


def parameters(kind: str) -> frozenset[str]:
    """Names of the ids that jobs of ``kind`` take; raises LookupError when nobody registered it."""
    return lookup(kind).parameters
