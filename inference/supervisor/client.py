"""Ask the supervisor for an expert's answer. Needs numpy, never torch: web and worker processes import this."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS
from inference.experts.contract import (
    ExpertOutput,
    Finding,
    ModelIdentity,
    Progress,
    Prompt,
    Refined,
    Volumes,
    VolumesOnDemand,
)
from inference.experts.errors import ExpertError, ExpertFailed, InvalidVolumes, MissingSequence
from inference.supervisor.protocol import (
    Channel,
    ChannelClosed,
    ProtocolError,
    ProtocolMessage,
    SupervisorHealth,
    open_channel,
)
from oncoflow_site.foundation.schema import JsonDict

__all__ = [
    "ExpertFailed",
    "ExpertTimeout",
    "ExpertUnavailable",
    "SupervisorClient",
    "connect",
    "create_key",
    "read_key",
]

T = TypeVar("T")

SILENCE_S = 60.0
"""The supervisor says something at least every few seconds while it works: a longer silence means it is gone."""


class ExpertTimeout(ExpertError):
    """The expert did not answer within the deadline and was stopped."""


class ExpertUnavailable(ExpertError):
    """The supervisor cannot be reached, does not know the expert, or the expert does not start. Trying later may help."""


ERRORS: dict[str, type[ExpertError]] = {
    "failed": ExpertFailed,
    "timeout": ExpertTimeout,
    "unavailable": ExpertUnavailable,
    "missing_sequence": MissingSequence,
    "invalid": InvalidVolumes,
}


def read_key(path: Path) -> bytes:
    """The shared key. Raises ExpertUnavailable when it is absent, short, or readable by others than its owner."""
    try:
        mode = path.stat().st_mode
        key = path.read_bytes()
    except OSError as error:
        raise ExpertUnavailable("the supervisor's key file cannot be read: is the supervisor running?") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ExpertUnavailable("the supervisor's key file is open to other users: set its mode to 0600")
    if len(key) < 32:
        raise ExpertUnavailable("the supervisor's key file is too short")
    return key


def create_key(path: Path) -> bytes:
    """The key of `path`, made with mode 0600 if there is none. Raises ExpertUnavailable as read_key does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    if not path.exists():
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(secrets.token_bytes(32))
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(fresh, path)  # fails if another process was first: its key stands
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return read_key(path)


def connect(address: str, timeout_s: float) -> socket.socket:
    """A stream to "HOST:PORT" on the loopback or to the path of a Unix socket. Raises OSError."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in address:
        return socket.create_connection((host or "127.0.0.1", int(port)), timeout_s)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(address.removeprefix("unix:"))
    except OSError:
        connection.close()
        raise
    return connection


class SupervisorClient:
    """One request a connection; safe to share between threads.

    address: path of the Unix socket or "127.0.0.1:PORT"; key: content of the key file.
    """

    def __init__(self, address: str, key: bytes, connect_timeout_s: float = 5.0, silence_s: float = SILENCE_S) -> None:
        self.address = str(address)
        self.key = key
        self.connect_timeout_s = connect_timeout_s
        self.silence_s = silence_s

    def run(
        self,
        expert_name: str,
        volumes: Volumes | VolumesOnDemand,
        deadline_s: float,
        on_progress: Progress | None = None,
        prompt: Prompt | None = None,
        key: str = "",
        priority: int = 0,
    ) -> ExpertOutput:
        """Segment one study with one expert.

        deadline_s counts from the moment the expert starts, not while the request queues. A request with a prompt
        overtakes those without, and among those one of higher `priority` (as that of jobs: STAT 20). key: names the volumes
        for good; with one, they are loaded and travel only where the supervisor does not have them. Exceptions from
        `on_progress` end the wait and are passed on; the supervisor then drops the request.
        Raises ExpertFailed, ExpertTimeout, ExpertUnavailable, MissingSequence, InvalidVolumes.
        """
        given = volumes if isinstance(volumes, VolumesOnDemand) else VolumesOnDemand.of(volumes)
        values = {
            "expert": expert_name,
            "deadline_s": float(deadline_s),
            "key": key,
            "spacing": [float(s) for s in given.spacing],
            "sequences": list(given.sequences),
            "indication": given.indication,
            "prompt": _prompt_values(prompt),
            "priority": int(priority),
        }
        request = ProtocolMessage("run", values, {} if key else _arrays(given.load()))
        answer = self._converse(request, given.load, on_progress)
        return self._exchange(partial(_output, answer, given.shape))

    def refine(
        self,
        expert_name: str,
        key: str,
        prompt: Prompt | None,
        *,
        sequences: Sequence[str],
        spacing: tuple[float, float, float],
        load: Callable[[], Volumes],
        deadline_s: float,
    ) -> Refined | None:
        """A person's prompt to one expert, answered in its interactive process; None for no prompt: it only prepares.

        key: names the study's volumes for good. load: called only when neither the expert nor the supervisor has them.
        Raises as `run` does.
        """
        values = {
            "expert": expert_name,
            "deadline_s": float(deadline_s),
            "key": key,
            "spacing": [float(s) for s in spacing],
            "sequences": list(sequences),
            "prompt": _prompt_values(prompt),
        }
        answer = self._converse(ProtocolMessage("refine", values), load, None)
        return None if prompt is None else self._exchange(partial(_refined, answer))

    def _converse(
        self, request: ProtocolMessage, load: Callable[[], Volumes], on_progress: Progress | None
    ) -> ProtocolMessage:
        """Ask, send volumes where they are asked for, and wait for the result."""
        channel = self._open()
        try:
            self._exchange(lambda: channel.send(request))
            while True:
                answer = self._exchange(channel.receive)
                if answer.kind == "progress":
                    fraction, text = answer.values.get("fraction", 0.0), answer.values.get("text", "")
                    if on_progress is not None:
                        on_progress(float(fraction), str(text))
                elif answer.kind == "volumes_needed":
                    arrays = _arrays(load())
                    wanted = {name: arrays[name] for name in answer.values["names"] if name in arrays}
                    self._exchange(partial(channel.send, ProtocolMessage("volumes", {}, wanted)))
                elif answer.kind == "result":
                    return answer
                elif answer.kind == "error":
                    raise ERRORS.get(str(answer.values.get("code")), ExpertFailed)(str(answer.values.get("message")))
        finally:
            channel.close()

    @staticmethod
    def _exchange(action: Callable[[], T]) -> T:
        """Run one step of the conversation; what goes wrong with it becomes ExpertUnavailable."""
        try:
            return action()
        except (ChannelClosed, TimeoutError) as error:
            raise ExpertUnavailable("the connection to the supervisor was lost") from error
        except (ProtocolError, KeyError, ValueError, TypeError) as error:
            name = type(error).__name__
            raise ExpertUnavailable(f"the supervisor gave an answer that was not understood: {name}") from error

    def health(self) -> SupervisorHealth:
        """What runs. Raises ExpertUnavailable."""
        channel = self._open()
        try:
            channel.send(ProtocolMessage("health"))
            answer = channel.receive()
        except (ChannelClosed, TimeoutError, ProtocolError) as error:
            raise ExpertUnavailable("the supervisor does not answer") from error
        finally:
            channel.close()
        return cast(SupervisorHealth, answer.values)

    def _open(self) -> Channel:
        try:
            connection = connect(self.address, self.connect_timeout_s)
        except OSError as error:
            raise ExpertUnavailable("the supervisor cannot be reached") from error
        try:
            channel = open_channel(connection, self.key)
        except (ChannelClosed, TimeoutError) as error:
            connection.close()
            raise ExpertUnavailable("the supervisor does not answer") from error
        connection.settimeout(self.silence_s)
        return channel


def _prompt_values(prompt: Prompt | None) -> JsonDict | None:
    if prompt is None:
        return None
    return {
        "region": prompt.region,
        "points": [list(p) for p in prompt.points],
        "box": None if prompt.box is None else [list(c) for c in prompt.box],
        "axis": prompt.axis,
        "scope": prompt.scope,
    }


def _arrays(volumes: Volumes) -> dict[str, NDArray[Any]]:
    images = {f"image:{name}": np.asarray(image, np.float32) for name, image in volumes.images.items()}
    return {"brain_mask": np.asarray(volumes.brain_mask, bool)} | images


def _model(values: Mapping[str, str]) -> ModelIdentity:
    return ModelIdentity(*(str(values[k]) for k in ("name", "version", "sha256", "architecture")))


def _refined(answer: ProtocolMessage) -> Refined:
    mask, (z, y, x) = answer.arrays["mask"], (int(n) for n in answer.values["origin"])
    if mask.dtype != np.bool_ or mask.ndim != 3:
        raise ProtocolError("the answer is no mask")
    return Refined(
        str(answer.values["region"]),
        (z, y, x),
        mask,
        _model(answer.values["model"]),
        float(answer.values["runtime_s"]),
        str(answer.values["device"]),
        tuple(map(str, answer.values["notes"])),
    )


def _output(answer: ProtocolMessage, shape: tuple[int, int, int]) -> ExpertOutput:
    probabilities: dict[str, NDArray[Any]] = {r: answer.arrays[r] for r in REGIONS}
    if any(p.shape != shape or p.dtype != np.float16 for p in probabilities.values()):
        raise ProtocolError("the answer has another shape than the question")
    return ExpertOutput(
        probabilities,
        _model(answer.values["model"]),
        float(answer.values["runtime_s"]),
        str(answer.values["device"]),
        tuple(map(str, answer.values["notes"])),
        tuple(
            Finding(str(f["text"]), float(f["confidence"]), int(f["slice_z"]))
            for f in answer.values.get("findings", [])
        ),
        {str(name): value for name, value in answer.values.get("environment", {}).items()},
    )
