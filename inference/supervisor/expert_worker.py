"""One expert's child process and the queue in front of it."""

from __future__ import annotations

import heapq
import itertools
import multiprocessing
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from inference.experts.factory import ExpertSpec, heavy_modules
from inference.supervisor.device_turns import DeviceTurns
from inference.supervisor.expert_process import library_environment, serve_requests
from inference.supervisor.memory_budget import HeldMemory, MemoryBudget, folder_bytes, pss_bytes
from inference.supervisor.protocol import Channel, ChannelClosed, ExpertHealth, ProtocolError, ProtocolMessage
from oncoflow_site.foundation.errors import required

__all__ = ["ExpertWorker", "Request", "warm_up"]

INTERACTIVE, ROUTINE = 0, 1
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0)
MINIMUM_RETRY_S = 10.0


@dataclass
class Request:
    """One question. `tell` gets every message for the client and raises Closed when it has gone."""

    message: ProtocolMessage
    deadline_s: float
    tell: Callable[[ProtocolMessage], None]
    interactive: bool = False
    priority: int = 0
    cancelled: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def finish(self, answer: ProtocolMessage) -> None:
        """The last message; the client may be gone by now."""
        try:
            if not self.cancelled:
                self.tell(answer)
        except ChannelClosed:
            self.cancelled = True
        finally:
            self.done.set()


def failure(code: str, text: str) -> ProtocolMessage:
    """An error for the client; the code is one of client.ERRORS."""
    return ProtocolMessage("error", {"code": code, "message": text})


_CONTEXT = multiprocessing.get_context("forkserver")


def warm_up(specs: Sequence[ExpertSpec]) -> None:
    """Start the template process that experts are forked from, with their libraries imported once for all of them.

    Importing nnU-Net takes 5 to 20 seconds of a core; forked from the template an expert starts at once, also after a
    crash, and shares the libraries' memory. Call before the first worker starts; a library that is missing is skipped.
    """
    # Read when the libraries are imported; each expert sets its own number of threads when it runs.
    os.environ |= library_environment(max((s.threads for s in specs), default=1))
    modules = ["inference.supervisor.expert_process", *heavy_modules(specs)]
    _CONTEXT.set_forkserver_preload(modules)


class ExpertWorker:
    """Runs requests one at a time, those of people first, then the urgent; kills a child that is late, restarts one that is gone.

    idle_s: the child starts with the first request and ends after so many seconds without one; None: it is always there,
    unless `residents` finds that all together hold too much memory. turns: what a panel's request waits for, and a person's not.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        load_timeout_s: float = 300.0,
        idle_s: float | None = None,
        residents: MemoryBudget | None = None,
        turns: DeviceTurns | None = None,
    ) -> None:
        self.spec = spec
        self.load_timeout_s = load_timeout_s
        self.idle_s = idle_s
        self.state = "starting" if idle_s is None else "asleep"
        self.error = ""
        self.model: dict[str, str] | None = None
        self.restarts = -1
        self._queue: list[tuple[int, int, int, Request]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._process: ForkServerProcess | None = None
        self._channel: Channel | None = None
        self._failures = 0
        self._next_start = 0.0
        self.served = time.monotonic()
        self._residents = residents or MemoryBudget(sys.maxsize)
        self._residents.add(self)
        self._turns = turns or DeviceTurns(0)
        self._gives_place = self._gave_place = self._settling = False
        self._last = HeldMemory(memory=folder_bytes(Path(spec.weights_dir)))
        self._thread = threading.Thread(target=self._loop, name=f"expert-{spec.name}", daemon=True)

    def start(self) -> None:
        """Start the child in the background."""
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; its `finish` is called exactly once."""
        with self._changed:
            if self._stopping:
                request.finish(failure("unavailable", "the supervisor is stopping"))
                return
            rank = INTERACTIVE if request.interactive else ROUTINE
            heapq.heappush(self._queue, (rank, -request.priority, next(self._order), request))
            self._changed.notify()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Refuse what waits, end the child, join the thread."""
        with self._changed:
            self._stopping = True
            waiting = [entry[-1] for entry in self._queue]
            self._queue.clear()
            self._changed.notify()
        for request in waiting:
            request.finish(failure("unavailable", "the supervisor is stopping"))
        process = self._process
        if process is not None and process.is_alive():
            process.terminate()
        self._thread.join(timeout_s)
        self._end_child()

    def health(self) -> ExpertHealth:
        """State for people and readiness checks."""
        process = self._process
        return {
            "state": self.state,
            "pid": process.pid if process and process.is_alive() else None,
            "restarts": max(self.restarts, 0),
            "queued": len(self._queue),
            "model": self.model,
            "error": self.error,
            "memory_bytes": self.held().memory if self.resident else 0,
            "device_bytes": self._last.device if self.resident else 0,
        }

    # The rest runs in the worker's own thread.

    def _loop(self) -> None:
        while True:
            wanted = (self.idle_s is None and not self._gave_place) or bool(self._queue)
            if wanted and self._process is None and not self._stopping and time.monotonic() >= self._next_start:
                self._start_child()
            with self._changed:
                if self._stopping:
                    break
                if not self._queue:
                    self._changed.wait(0.5)
                entry = heapq.heappop(self._queue) if self._queue else None
            if entry is None:
                if self._process is not None and not self._process.is_alive():
                    self._lost("ended while idle")
                elif self._process is not None and (self._gives_place or self._idle_for_too_long()):
                    self._gave_place = self._gives_place
                    self._end_child()
                    self.state, self.restarts = "asleep", self.restarts - 1
                self._gives_place = False
                continue
            self._gives_place = False
            self._serve(entry[-1])
            self._settle()
        self._end_child()

    def _idle_for_too_long(self) -> bool:
        return self.idle_s is not None and time.monotonic() - self.served > self.idle_s

    @property
    def resident(self) -> bool:
        """See Resident."""
        return self._process is not None

    @property
    def idle(self) -> bool:
        """See Resident."""
        return self.state == "ready" and not self._queue and not self._settling

    def held(self) -> HeldMemory:
        """See Resident."""
        process = self._process
        if process is not None and process.pid is not None and (memory := pss_bytes(process.pid)):
            if self.state == "starting":  # it has not read all its weights yet
                return replace(self._last, memory=max(memory, self._last.memory))
            self._last = replace(self._last, memory=memory)
        return self._last

    def give_place(self) -> None:
        """See Resident."""
        with self._changed:
            self._gives_place = True
            self._changed.notify()

    def _start_child(self) -> None:
        self._residents.make_room(self, self.load_timeout_s, lambda: self._stopping)
        try:
            self._start()
        finally:
            self._settle()

    def _settle(self) -> None:
        self.served = time.monotonic()
        self._settling = True  # this thread waits for another's: it cannot be waited for itself
        self._residents.settle(self)
        self._settling = False

    def _start(self) -> None:
        self._gave_place = False
        self.state, self.restarts = "starting", self.restarts + 1
        ours, theirs = socket.socketpair()
        process = _CONTEXT.Process(target=serve_requests, args=(theirs, self.spec), name=self.spec.name, daemon=True)
        try:
            process.start()
        except (OSError, EOFError) as error:
            ours.close()
            self._failed_start(f"the process did not start: {error!r}")
            return
        finally:
            theirs.close()
        self._process = process
        self._channel = Channel(ours)
        try:
            answer = self._receive_until(time.monotonic() + self.load_timeout_s)
        except TimeoutError:
            self._failed_start(f"loading took longer than {self.load_timeout_s:.0f} s")
        except (ChannelClosed, ProtocolError):
            self._failed_start("the process ended while loading")
        else:
            if answer.kind == "ready":
                self.model, self.state, self.error, self._failures = answer.values["model"], "ready", "", 0
                self._note_device(answer)
            else:
                self._failed_start(str(answer.values.get("message", "loading failed")))

    def _failed_start(self, text: str) -> None:
        self._end_child()
        self._failures += 1
        self._next_start = time.monotonic() + max(MINIMUM_RETRY_S, BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)])
        self.state, self.error = "failed", text
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        with self._changed:
            waiting = [entry[-1] for entry in self._queue]
            self._queue.clear()
        for request in waiting:
            request.finish(failure("unavailable", f"{self.spec.name} is not available: {self.error}"))

    def _lost(self, text: str) -> None:
        self._end_child()
        self._failures += 1
        self.error = text
        self.state = "starting"
        self._next_start = time.monotonic() + BACKOFF_S[min(self._failures - 1, len(BACKOFF_S) - 1)]

    def _end_child(self) -> None:
        process, channel = self._process, self._channel
        self._process = self._channel = None
        if channel is not None:
            channel.close()
        if process is not None:
            if process.is_alive():
                process.kill()
            process.join()

    def _serve(self, request: Request) -> None:
        if request.cancelled:
            request.done.set()
            return
        while self._process is None:
            if self.state == "failed" or self._stopping:
                request.finish(failure("unavailable", f"{self.spec.name} is not available: {self.error}"))
                return
            time.sleep(max(0.0, min(self._next_start - time.monotonic(), 0.2)))
            if time.monotonic() >= self._next_start:
                self._start_child()
        self.state = "busy"
        if request.interactive:
            self._exchange(request)
        elif self._turns.take(request.priority, lambda: self._stopping or request.cancelled):
            try:
                self._exchange(request)
            finally:
                self._turns.give_back()
        else:
            self.state = "ready"
            request.finish(failure("unavailable", "the supervisor is stopping"))

    def _exchange(self, request: Request) -> None:
        """Put the request to the child, pass on what it says, and find out what became of it when it says nothing."""
        channel = required(self._channel, "the channel to the expert")
        ends = time.monotonic() + request.deadline_s
        dropped = False
        try:
            channel.connection.settimeout(request.deadline_s)
            channel.send(request.message)
            while True:
                answer = self._receive_until(ends)
                if answer.kind == "progress":
                    self._tell(request, answer)
                    if request.cancelled and not dropped:
                        dropped = True
                        # Nobody waits any more: the expert stops at its next step, its process and model stay.
                        channel.send(ProtocolMessage("cancel"))
                else:
                    break
        except TimeoutError:
            self._lost("exceeded its deadline and was stopped")
            self._failures = 0
            self._next_start = 0.0
            request.finish(failure("timeout", f"{self.spec.name} did not answer within {request.deadline_s:.0f} s"))
        except (ChannelClosed, ProtocolError, OSError):
            process = self._process
            code = None
            if process is not None:
                process.join(2.0)
                code = process.exitcode
            self._lost("crashed")
            how = f" (signal {-code})" if code is not None and code < 0 else f" (exit code {code})" if code else ""
            request.finish(failure("failed", f"{self.spec.name} crashed{how}"))
        else:
            self.state, self._failures = "ready", 0
            self._note_device(answer)
            request.finish(answer)

    def _note_device(self, answer: ProtocolMessage) -> None:
        told = answer.values.pop("device_memory", None)
        if told:
            self._last = replace(self._last, device=int(told[0]), device_total=int(told[1]))

    @staticmethod
    def _tell(request: Request, message: ProtocolMessage) -> None:
        """Pass a message on; a client that went away is noticed here."""
        if not request.cancelled:
            try:
                request.tell(message)
            except ChannelClosed:
                request.cancelled = True

    def _receive_until(self, ends: float) -> ProtocolMessage:
        """The child's next message before the monotonic time `ends`; TimeoutError after it.

        The wait is for the first byte; a message that has begun is read to its end, within the same limit a chunk.
        """
        channel = self._channel
        if channel is None:
            raise ChannelClosed
        while True:
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if self._stopping:
                raise ChannelClosed
            ready, _, _ = select.select([channel.connection], [], [], min(left, 1.0))
            if ready:
                channel.connection.settimeout(max(left, 1.0))
                return channel.receive()
