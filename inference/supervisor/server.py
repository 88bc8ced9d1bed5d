"""The supervisor: a local socket in front of one resident process per expert.

It imports no torch and computes nothing, so that it stays responsive and survives whatever its experts do.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.experts.factory import ExpertSpec
from inference.supervisor.client import connect, create_key
from inference.supervisor.device_turns import DeviceTurns
from inference.supervisor.expert_worker import ExpertWorker, Request, failure, warm_up
from inference.supervisor.memory_budget import MemoryBudget, machine_bytes
from inference.supervisor.protocol import (
    Channel,
    ChannelClosed,
    ProtocolError,
    ProtocolMessage,
    SupervisorHealth,
    accept_channel,
)
from inference.supervisor.volume_cache import VolumeCache, array_names
from oncoflow_site.foundation.errors import required

__all__ = ["Supervisor", "SupervisorConfig", "serve", "specs_from"]

BEAT_S = 5.0
HANDSHAKE_S = 10.0
REQUEST_S = 300.0
MAXIMUM_DEADLINE_S = 24 * 3600.0
MAXIMUM_CONNECTIONS = 64
INTERACTIVE_KINDS = ("sam",)


@dataclass(frozen=True)
class SupervisorConfig:
    """experts: what to run. address: path of a Unix socket, or "127.0.0.1:PORT". key_path: shared key, made if absent.

    volumes_bytes: how much of what clients sent is kept. interactive_idle_s: an expert's second process, which answers
    people's clicks, starts with the first click and ends after so long without one. memory_bytes: what all experts may hold
    together (see residents.py); 0: three quarters of what the machine has. at_once: how many compute panels' requests at a
    time (see turns.py); 0: all of them.
    """

    experts: tuple[ExpertSpec, ...]
    address: str
    key_path: Path
    load_timeout_s: float = 300.0
    volumes_bytes: int = 768 << 20
    interactive_idle_s: float = 900.0
    memory_bytes: int = 0
    at_once: int = 0


def specs_from(panel: Sequence[Mapping[str, Any]], threads: int = 1) -> tuple[ExpertSpec, ...]:
    """ExpertSpec of every entry of a settings list; `threads` where an entry names none.

    Raises ValueError for an unknown field or a name that occurs twice.
    """
    try:
        specs = tuple(ExpertSpec(**{"threads": threads, **entry}) for entry in panel)
    except TypeError as error:
        raise ValueError(f"an expert of the panel is not described correctly: {error}") from error
    if len({s.name for s in specs}) != len(specs):
        raise ValueError("two experts of the panel have the same name")
    return specs


class Supervisor:
    """Listens, authenticates, queues. start() returns once the socket accepts; the experts load in the background."""

    def __init__(self, config: SupervisorConfig) -> None:
        self.config = config
        self.key = create_key(config.key_path)
        self.residents = MemoryBudget(config.memory_bytes or machine_bytes())
        turns = DeviceTurns(config.at_once)
        self.workers = {
            s.name: ExpertWorker(s, config.load_timeout_s, residents=self.residents, turns=turns)
            for s in config.experts
        }
        # A click must not wait until a panel's prediction by the same expert is over: it has a process of its own.
        self.lanes = {
            s.name: ExpertWorker(s, config.load_timeout_s, config.interactive_idle_s, self.residents)
            for s in config.experts
            if s.kind in INTERACTIVE_KINDS or s.factory is not None
        }
        self.volumes = VolumeCache(config.volumes_bytes)
        self.started = time.monotonic()
        self._listener: socket.socket | None = None
        self._stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(MAXIMUM_CONNECTIONS)

    @property
    def address(self) -> str:
        """Where it listens: with port 0 in the configuration, the port that was given."""
        listener = required(self._listener, "the listening socket")
        if listener.family == socket.AF_UNIX:
            return self.config.address
        host, port = listener.getsockname()[:2]
        return f"{host}:{port}"

    def start(self) -> None:
        """Bind and start everything. Raises OSError when the address is in use."""
        self._listener = _listen(self.config.address)
        warm_up(self.config.experts)
        for worker in (*self.workers.values(), *self.lanes.values()):
            worker.start()
        threading.Thread(target=self._accept, name="supervisor-accept", daemon=True).start()

    def stop(self) -> None:
        """Close the socket, end the experts. Safe to repeat."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            if self._listener.family == socket.AF_UNIX:
                with suppress(OSError):
                    os.unlink(self.config.address.removeprefix("unix:"))
            self._listener.close()
        enders = [threading.Thread(target=w.stop) for w in (*self.workers.values(), *self.lanes.values())]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()

    def health(self) -> SupervisorHealth:
        """What SupervisorClient.health gives."""
        return {
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self.started, 1),
            "experts": {name: worker.health() for name, worker in self.workers.items()},
            "interactive": {name: worker.health() for name, worker in self.lanes.items()},
            "volumes_bytes": self.volumes.bytes,
            "memory_limit_bytes": self.residents.limit,
        }

    def _accept(self) -> None:
        listener = required(self._listener, "the listening socket")
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._stopping.is_set():
                    return
                time.sleep(0.1)
                continue
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        channel: Channel | None = None
        try:
            connection.settimeout(HANDSHAKE_S)
            channel = accept_channel(connection, self.key)
            connection.settimeout(REQUEST_S)
            message = channel.receive()
            if message.kind == "health":
                channel.send(ProtocolMessage("health", dict(self.health())))
            elif message.kind in ("run", "refine"):
                self._run(channel, message)
            else:
                channel.send(failure("invalid", "unknown request"))
        except (ChannelClosed, ProtocolError, TimeoutError, KeyError, TypeError):
            pass  # a stranger, nonsense, or a client that went away: there is nobody to tell
        finally:
            if channel is not None:
                channel.close()
            connection.close()
            self._slots.release()

    def _run(self, channel: Channel, message: ProtocolMessage) -> None:
        refine = message.kind == "refine"
        worker = (self.lanes if refine else self.workers).get(str(message.values.get("expert")))
        if worker is None:
            channel.send(failure("unavailable", "the supervisor has no expert of that name that can do this"))
            return
        try:
            deadline = float(message.values["deadline_s"])
        except (KeyError, TypeError, ValueError):
            deadline = -1.0
        if not 0 < deadline <= MAXIMUM_DEADLINE_S:
            channel.send(failure("invalid", "the deadline must be a positive number of seconds"))
            return
        if refine:
            # The expert keeps what it made of a study: only when it does not know the study are the volumes needed.
            if not self._ask(channel, worker, message, deadline, interactive=True):
                self._ask(channel, worker, self._with_volumes(channel, message), deadline, interactive=True)
            return
        if message.values.get("key") and not message.arrays:
            message = self._with_volumes(channel, message)
        self._ask(channel, worker, message, deadline, interactive=message.values.get("prompt") is not None)

    def _with_volumes(self, channel: Channel, message: ProtocolMessage) -> ProtocolMessage:
        """The request with its arrays: those kept here, the others from the client. Raises as receiving does."""
        key, names = str(message.values["key"]), array_names([str(n) for n in message.values["sequences"]])
        arrays, missing = self.volumes.find(key, names)
        if missing:
            channel.send(ProtocolMessage("volumes_needed", {"names": missing}))
            sent = channel.receive()
            if sent.kind != "volumes" or set(sent.arrays) != set(missing):
                raise ProtocolError("the volumes were expected")
            self.volumes.keep(key, sent.arrays)
            arrays |= sent.arrays
        return ProtocolMessage(message.kind, message.values, {name: arrays[name] for name in names})

    def _ask(
        self, channel: Channel, worker: ExpertWorker, message: ProtocolMessage, deadline: float, *, interactive: bool
    ) -> bool:
        """Put the request to the expert and pass on what it says; False when it needs the volumes, which is not passed on."""
        sending = threading.Lock()
        last = time.monotonic()
        told: tuple[float, str] = (0.0, "waiting")
        needed = False

        def tell(answer: ProtocolMessage) -> None:
            nonlocal last, told, needed
            if answer.kind == "volumes_needed":
                needed = True
                return
            with sending:
                if answer.kind == "progress":
                    told = (float(answer.values["fraction"]), str(answer.values["text"]))
                channel.send(answer)
                last = time.monotonic()

        asked = message.values.get("priority", 0)
        urgent = asked if isinstance(asked, int) else 0
        request = Request(message, deadline, tell, interactive=interactive, priority=urgent)
        worker.submit(request)
        while not request.done.wait(1.0):
            if time.monotonic() - last > BEAT_S and not request.cancelled:
                try:  # the client takes silence for death, and we learn here that a client is gone
                    tell(ProtocolMessage("progress", {"fraction": told[0], "text": told[1]}))
                except ChannelClosed:
                    request.cancelled = True
                    return True
        return not needed


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in address:
        if host not in ("", "127.0.0.1", "localhost"):
            raise ValueError("the supervisor listens on the loopback only")
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", int(port)))
    else:
        path = Path(address.removeprefix("unix:"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            try:
                connect(str(path), 1.0).close()
            except OSError:
                path.unlink(missing_ok=True)  # left by a supervisor that was killed
            else:
                raise OSError("another supervisor is listening there")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
    listener.listen(16)
    return listener


def serve(config: SupervisorConfig) -> None:
    """Run until SIGTERM or SIGINT; the experts are ended before it returns. Call from the main thread."""
    supervisor = Supervisor(config)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    supervisor.start()
    try:
        while not ended.wait(1.0):
            pass
    finally:
        supervisor.stop()
