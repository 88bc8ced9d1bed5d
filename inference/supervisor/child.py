"""The process of one expert: loads the model once, then answers one request after another on the socket it was given."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import asdict

from inference.experts.base import (
    Expert,
    ExpertError,
    InvalidVolumes,
    MissingSequence,
    Prompt,
    Volumes,
    WeightsMismatch,
    WeightsMissing,
)
from inference.experts.factory import ExpertSpec, make_expert

from .wire import Channel, Closed, Message

__all__ = ["library_environment", "serve_requests"]


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
            channel.send(Message("load_failed", {"message": text}))
            return
        channel.send(
            Message(
                "ready",
                {
                    "model": {
                        "name": model.name,
                        "version": model.version,
                        "sha256": model.sha256,
                        "architecture": model.architecture,
                    }
                },
            )
        )
        while True:
            _answer(expert, channel, channel.receive())
    except Closed:
        return


def _exit_with_parent(parent: int) -> None:
    """End this process when the supervisor is gone, also while a model computes."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _answer(expert: Expert, channel: Channel, request: Message) -> None:
    last = 0.0

    def progress(fraction: float, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.2 or fraction >= 1.0:
            last = now
            channel.send(Message("progress", {"fraction": float(fraction), "text": text}))

    try:
        volumes, prompt = request_volumes(request)
        output = expert.predict(volumes, prompt, progress)
    except MissingSequence as error:
        channel.send(Message("error", {"code": "missing_sequence", "message": str(error)}))
    except InvalidVolumes as error:
        channel.send(Message("error", {"code": "invalid", "message": str(error)}))
    except ExpertError as error:
        channel.send(Message("error", {"code": "failed", "message": str(error)}))
    except Closed:
        raise
    except Exception as error:
        channel.send(Message("error", {"code": "failed", "message": f"the expert failed: {type(error).__name__}"}))
    else:
        model = output.model
        channel.send(
            Message(
                "result",
                {
                    "model": {
                        "name": model.name,
                        "version": model.version,
                        "sha256": model.sha256,
                        "architecture": model.architecture,
                    },
                    "runtime_s": output.runtime_s,
                    "device": output.device,
                    "notes": list(output.notes),
                    "findings": [asdict(finding) for finding in output.findings],
                },
                dict(output.probabilities),
            )
        )


def request_volumes(request: Message) -> tuple[Volumes, Prompt | None]:
    """The study of a request. Raises InvalidVolumes when the request is incomplete."""
    try:
        z, y, x = (float(s) for s in request.values["spacing"])
        volumes = Volumes(
            {str(n): request.arrays[f"image:{n}"] for n in request.values["sequences"]},
            (z, y, x),
            request.arrays["brain_mask"],
            str(request.values.get("indication", "")),
        )
        asked = request.values.get("prompt")
        if asked is None:
            return volumes, None
        points = tuple((int(p[0]), int(p[1]), int(p[2]), bool(p[3])) for p in asked["points"])
        box = asked["box"]
        corners = None
        if box is not None:
            (a, b, c), (d, e, f) = box
            corners = ((int(a), int(b), int(c)), (int(d), int(e), int(f)))
        return volumes, Prompt(str(asked["region"]), points, corners)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InvalidVolumes("the request is incomplete") from error
