"""The process of one expert: loads the model once, then answers one request after another on the socket it was given."""

from __future__ import annotations

import os
import platform
import random
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from inference.experts.contract import Expert, InteractiveExpert, Prompt, Volumes
from inference.experts.errors import (
    ExpertError,
    InvalidVolumes,
    MissingSequence,
    VolumesNeeded,
    WeightsMismatch,
    WeightsMissing,
)
from inference.experts.factory import ExpertSpec, make_expert
from inference.supervisor.protocol import Channel, ChannelClosed, ProtocolMessage

__all__ = ["SEED", "library_environment", "recorded_environment", "serve_requests"]

SEED = 20_230_101
"""Every request begins with it: the same input, versions, device and threads give the same mask."""
_PACKAGES = ("numpy", "scipy", "torch", "nnunetv2", "sam2", "transformers")


class Cancelled(BaseException):
    """The supervisor does not want this answer any more. No `Exception`: experts turn those into failures of theirs."""


def library_environment(threads: int) -> dict[str, str]:
    """Environment of an expert's process for the numerical libraries in it, and for what they start."""
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "NUMEXPR_NUM_THREADS": str(threads),
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",  # bars of libraries have no place in a service's log
    }


def serve_requests(connection: socket.socket, spec: ExpertSpec) -> None:
    """Run one expert until the connection closes. The process was forked from the supervisor's template."""
    # The template may be older than this supervisor, and has the highest number of threads of all its experts.
    os.environ |= library_environment(spec.threads)
    os.setsid()  # Ctrl-C in the terminal is for the supervisor, which ends us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _exit_with_parent(os.getppid())
    channel = Channel(connection)
    try:
        try:
            expert = make_expert(spec)
            model = expert.load()
        except Exception as error:
            known = isinstance(error, WeightsMissing | WeightsMismatch | ValueError)
            text = str(error) if known else f"loading failed: {type(error).__name__}"
            channel.send(ProtocolMessage("load_failed", {"message": text}))
            return
        channel.send(ProtocolMessage("ready", {"model": asdict(model), "device_memory": _device_memory(spec.device)}))
        while True:
            request = channel.receive()
            if request.kind == "refine":
                _refine(expert, channel, request)
            elif request.kind != "cancel":  # one that came when its answer was on the way already
                _answer(expert, channel, request, spec)
    except ChannelClosed:
        return


def _exit_with_parent(parent: int) -> None:
    """End this process when the supervisor is gone, also while a model computes."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def recorded_environment(spec: ExpertSpec, device: str) -> dict[str, str | int]:
    """What has to be equal for the same mask: versions, processor, device, threads, seed."""
    found: dict[str, str | int] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "threads": spec.threads,
        "seed": SEED,
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch := sys.modules.get("torch"):
        found["cpu"] = torch.backends.cpu.get_cpu_capability()
        if device.startswith("cuda"):
            found["gpu"] = torch.cuda.get_device_name(torch.device(device))
    return found


def _device_memory(device: str) -> list[int]:
    """[bytes that this process has reserved on its GPU, bytes that the GPU has]; nothing without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_initialized():
        return []
    return [int(torch.cuda.memory_reserved(device)), int(torch.cuda.mem_get_info(device)[1])]


def _sow() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(SEED)


def _answer(expert: Expert, channel: Channel, request: ProtocolMessage, spec: ExpertSpec) -> None:
    last = 0.0

    def progress(fraction: float, text: str) -> None:
        nonlocal last
        if select.select([channel.connection], [], [], 0)[0] and channel.receive().kind == "cancel":
            raise Cancelled
        now = time.monotonic()
        if now - last > 0.2 or fraction >= 1.0:
            last = now
            channel.send(ProtocolMessage("progress", {"fraction": float(fraction), "text": text}))

    try:
        volumes, prompt = request_volumes(request)
        _sow()
        output = expert.predict(volumes, prompt, progress)
    except Cancelled:
        channel.send(ProtocolMessage("error", {"code": "cancelled", "message": "the request was dropped"}))
    except ChannelClosed:
        raise
    except Exception as error:
        channel.send(_failure(error))
    else:
        channel.send(
            ProtocolMessage(
                "result",
                {
                    "model": asdict(output.model),
                    "runtime_s": output.runtime_s,
                    "device": output.device,
                    "notes": list(output.notes),
                    "environment": recorded_environment(spec, output.device),
                    "findings": [asdict(finding) for finding in output.findings],
                    "device_memory": _device_memory(spec.device),
                },
                dict(output.probabilities),
            )
        )


def _refine(expert: Expert, channel: Channel, request: ProtocolMessage) -> None:
    """Answer a person's prompt, or ask for the study's volumes when nothing of it is kept here."""
    try:
        if not isinstance(expert, InteractiveExpert):
            raise InvalidVolumes("this expert takes no prompts")
        prompt = request_prompt(request)
        volumes = request_volumes(request)[0] if request.arrays else None
        refined = expert.refine(str(request.values["key"]), prompt, volumes)
    except VolumesNeeded:
        channel.send(ProtocolMessage("volumes_needed"))
    except Exception as error:
        channel.send(_failure(error))
    else:
        if refined is None:
            channel.send(ProtocolMessage("result", {"prepared": True}))
            return
        values = {
            "region": refined.region,
            "origin": list(refined.origin),
            "model": asdict(refined.model),
            "runtime_s": refined.runtime_s,
            "device": refined.device,
            "notes": list(refined.notes),
        }
        channel.send(ProtocolMessage("result", values, {"mask": refined.mask}))


def _failure(error: Exception) -> ProtocolMessage:
    """What went wrong, without details that only an engineer should see."""
    code, text = "failed", str(error)
    if isinstance(error, MissingSequence):
        code = "missing_sequence"
    elif isinstance(error, InvalidVolumes):
        code = "invalid"
    elif not isinstance(error, ExpertError):
        text = f"the expert failed: {type(error).__name__}"
    return ProtocolMessage("error", {"code": code, "message": text})


def request_volumes(request: ProtocolMessage) -> tuple[Volumes, Prompt | None]:
    """The study of a request. Raises InvalidVolumes when the request is incomplete."""
    try:
        z, y, x = (float(s) for s in request.values["spacing"])
        volumes = Volumes(
            {str(n): request.arrays[f"image:{n}"] for n in request.values["sequences"]},
            (z, y, x),
            request.arrays["brain_mask"],
            str(request.values.get("indication", "")),
        )
        return volumes, request_prompt(request)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InvalidVolumes("the request is incomplete") from error


def request_prompt(request: ProtocolMessage) -> Prompt | None:
    """The person's prompt of a request, if there is one. Raises InvalidVolumes when it is incomplete."""
    asked = request.values.get("prompt")
    if asked is None:
        return None
    try:
        points = tuple((int(p[0]), int(p[1]), int(p[2]), bool(p[3])) for p in asked["points"])
        corners = None
        if asked["box"] is not None:
            (a, b, c), (d, e, f) = asked["box"]
            corners = ((int(a), int(b), int(c)), (int(d), int(e), int(f)))
        axis, scope = int(asked.get("axis", 0)), str(asked.get("scope", "volume"))
        return Prompt(str(asked["region"]), points, corners, axis, scope)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InvalidVolumes("the prompt is incomplete") from error
