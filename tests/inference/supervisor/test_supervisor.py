"""The supervisor with real child processes: answers, crashes, hangs, strangers, stopping."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from inference.experts.contract import Prompt, Volumes
from inference.experts.errors import ExpertFailed
from inference.experts.factory import ExpertSpec
from inference.supervisor import protocol
from inference.supervisor.client import ExpertTimeout, ExpertUnavailable, SupervisorClient, create_key, read_key
from inference.supervisor.expert_process import SEED
from inference.supervisor.protocol import (
    Channel,
    ChannelClosed,
    ProtocolError,
    ProtocolMessage,
    accept_channel,
    open_channel,
)
from inference.supervisor.server import Supervisor, SupervisorConfig, specs_from
from tests.factories.waiting import until

FACTORY = "tests.factories.fake_experts:make"


def volumes(value: float) -> Volumes:
    image = np.full((3, 4, 5), value, np.float32)
    return Volumes({"T1": image}, (1.0, 1.0, 1.0), np.ones(image.shape, bool))


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    specs = tuple(
        ExpertSpec(name, kind, str(tmp_path), threads=3, factory=FACTORY)
        for name, kind in (("good", "good"), ("other", "good"), ("unloadable", "unloadable"))
    )
    running = Supervisor(SupervisorConfig(specs, "127.0.0.1:0", tmp_path / "key", load_timeout_s=60))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(supervisor: Supervisor) -> SupervisorClient:
    return SupervisorClient(supervisor.address, supervisor.key)


def test_answer_progress_and_environment(client: SupervisorClient) -> None:
    seen: list[tuple[float, str]] = []
    output = client.run("good", volumes(1), 60, lambda f, t: seen.append((f, t)))
    assert output.probabilities["ET"].shape == (3, 4, 5)
    assert output.probabilities["ET"].dtype == np.float16
    assert float(output.probabilities["WT"].max()) == 0.75
    assert output.model.name == "good"
    assert output.notes[:2] == ("PASSIVE", "3")
    assert (0.5, "half way") in seen
    again = client.run("good", volumes(1), 60)
    assert again.notes[2] == output.notes[2], "the process must stay resident"
    assert client.health()["experts"]["good"]["state"] == "ready"


def test_what_makes_an_answer_again_is_told_with_it(client: SupervisorClient) -> None:
    one, two = (client.run("good", volumes(1), 60).environment for _ in "ab")
    assert one == two
    assert (one["device"], one["threads"], one["seed"]) == ("cpu", 3, SEED)
    assert one["numpy"] == np.__version__


def test_a_request_that_nobody_wants_any_more_is_dropped_and_the_expert_stays(
    client: SupervisorClient, tmp_path: Path
) -> None:
    before = client.run("good", volumes(1), 60).notes[2]

    def stop(fraction: float, text: str) -> None:
        if text == "still at it":
            raise KeyError("the job was cancelled")

    with pytest.raises(KeyError):
        client.run("good", volumes(16), 120, stop)
    started = time.monotonic()
    assert client.run("good", volumes(1), 60).notes[2] == before, "its process and its model stay"
    assert time.monotonic() - started < 30, "it would have been at it for a minute"
    assert int((tmp_path / "steps.txt").read_text()) < 300


def test_each_expert_has_its_own_number_of_threads(tmp_path: Path) -> None:
    specs = tuple(ExpertSpec(f"with-{n}", "good", str(tmp_path), threads=n, factory=FACTORY) for n in (1, 2))
    supervisor = Supervisor(SupervisorConfig(specs, "127.0.0.1:0", tmp_path / "key", load_timeout_s=60))
    supervisor.start()
    try:
        client = SupervisorClient(supervisor.address, supervisor.key)
        assert [client.run(spec.name, volumes(1), 60).notes[1] for spec in specs] == ["1", "2"]
    finally:
        supervisor.stop()


def test_crash_is_reported_and_the_expert_returns(client: SupervisorClient) -> None:
    before = client.run("good", volumes(1), 60).notes[2]
    with pytest.raises(ExpertFailed, match=r"crashed \(signal 9\)"):
        client.run("good", volumes(11), 60)
    after = client.run("good", volumes(1), 60).notes[2]
    assert after != before
    assert client.health()["experts"]["good"]["restarts"] == 1


def test_hanging_expert_is_killed_while_the_other_goes_on(client: SupervisorClient) -> None:
    client.run("good", volumes(1), 60)
    pid = client.health()["experts"]["good"]["pid"]
    failed: list[Exception] = []

    def hang() -> None:
        try:
            client.run("good", volumes(12), 2.0)
        except ExpertTimeout as error:
            failed.append(error)

    thread = threading.Thread(target=hang)
    started = time.monotonic()
    thread.start()
    assert client.run("other", volumes(1), 60).model.name == "other"
    thread.join(30)
    assert len(failed) == 1
    assert time.monotonic() - started < 30
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert client.run("good", volumes(1), 60).model.name == "good"


def test_failures_carry_no_detail_of_the_exception(client: SupervisorClient) -> None:
    with pytest.raises(ExpertFailed, match="asked to fail"):
        client.run("good", volumes(13), 60)
    with pytest.raises(ExpertFailed) as caught:
        client.run("good", volumes(14), 60)
    assert "secret" not in str(caught.value)
    assert "RuntimeError" in str(caught.value)


def test_unloadable_and_unknown_experts_are_unavailable(client: SupervisorClient) -> None:
    with pytest.raises(ExpertUnavailable, match="missing"):
        client.run("unloadable", volumes(1), 60)
    with pytest.raises(ExpertUnavailable, match="no expert of that name"):
        client.run("nobody", volumes(1), 60)


def test_a_persons_click_overtakes_the_panel(client: SupervisorClient, tmp_path: Path) -> None:
    client.run("good", volumes(1), 60)
    threads = [threading.Thread(target=client.run, args=("good", volumes(17), 60))]
    threads[0].start()
    until((tmp_path / "at-work").exists)
    # Each stands in the queue before the next one asks.
    for value, prompt in ((2, None), (3, None), (4, Prompt("ET", ((1, 1, 1, True),)))):
        threads.append(threading.Thread(target=client.run, args=("good", volumes(value), 60, None, prompt)))
        threads[-1].start()
        until(lambda: client.health()["experts"]["good"]["queued"] == len(threads) - 1)
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(60)
    assert (tmp_path / "order.txt").read_text().split() == ["1", "17", "4p", "2", "3"]


def test_an_urgent_study_overtakes_those_that_wait(client: SupervisorClient, tmp_path: Path) -> None:
    client.run("good", volumes(1), 60)
    busy = threading.Thread(target=client.run, args=("good", volumes(17), 60))
    busy.start()
    until((tmp_path / "at-work").exists)
    waiting: list[threading.Thread] = []
    for value, priority in ((2, 0), (3, 0), (4, 20), (5, 10)):
        waiting.append(
            threading.Thread(target=client.run, args=("good", volumes(value), 60), kwargs={"priority": priority})
        )
        waiting[-1].start()
        until(lambda: client.health()["experts"]["good"]["queued"] == len(waiting))
    (tmp_path / "go").touch()
    for one in (busy, *waiting):
        one.join()
    assert (tmp_path / "order.txt").read_text().split() == ["1", "17", "4", "5", "2", "3"]


def test_exception_of_the_callback_reaches_the_caller(client: SupervisorClient) -> None:
    def stop(fraction: float, text: str) -> None:
        raise LookupError("lease lost")

    with pytest.raises(LookupError, match="lease lost"):
        client.run("good", volumes(1), 60, stop)
    assert client.run("good", volumes(1), 60).model.name == "good"


def test_a_stranger_gets_nothing(supervisor: Supervisor, client: SupervisorClient) -> None:
    with pytest.raises(ExpertUnavailable):
        SupervisorClient(supervisor.address, b"x" * 32).health()
    host, port = supervisor.address.split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + b"A" * 200)
        raw.settimeout(10)
        received = b""
        with suppress(ConnectionResetError):
            while part := raw.recv(1000):
                received += part
    assert len(received) <= 32, "only the nonce may be sent to a stranger"
    assert client.health()["experts"]


def pair() -> tuple[Channel, Channel]:
    a, b = socket.socketpair()
    key, made = b"k" * 32, []
    thread = threading.Thread(target=lambda: made.append(accept_channel(a, key)))
    thread.start()
    client_side = open_channel(b, key)
    thread.join()
    return made[0], client_side


def test_replayed_frame_is_refused() -> None:
    server, client_side = pair()
    sent = bytearray()
    original = client_side.connection

    class Recorder:
        def sendall(self, data: bytes) -> None:
            sent.extend(data)
            original.sendall(data)

    client_side.connection = Recorder()  # type: ignore[assignment]
    client_side.send(ProtocolMessage("run", {"a": 1}))
    assert server.receive().values == {"a": 1}
    original.sendall(bytes(sent))
    with pytest.raises(ProtocolError, match="authentication"):
        server.receive()


def test_pickled_array_is_refused() -> None:
    server, client_side = pair()
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)

    evil = Channel(client_side.connection, client_side.key, client_side.nonce)
    evil._sent = client_side._sent
    body = buffer.getvalue()
    header = b'{"kind": "run", "values": {}, "arrays": [["x", 0, %d]]}' % len(body)
    prefix = protocol.HEADER.pack(protocol.MAGIC, len(header), len(body))
    evil.connection.sendall(prefix + evil._code(b"C", evil._sent, prefix, header, body) + header + body)
    with pytest.raises(ProtocolError, match="malformed"):
        server.receive()


def test_too_large_a_claim_is_refused_before_it_is_read() -> None:
    server, client_side = pair()
    client_side.connection.sendall(protocol.HEADER.pack(protocol.MAGIC, 10, 1 << 60))
    with pytest.raises(ProtocolError):
        server.receive()
    client_side.close()
    server.close()
    with pytest.raises(ChannelClosed):
        server.receive()


def test_key_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "run" / "key"
    key = create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert create_key(path) == key == read_key(path)
    path.chmod(0o644)
    with pytest.raises(ExpertUnavailable, match="0600"):
        read_key(path)
    with pytest.raises(ExpertUnavailable):
        read_key(tmp_path / "absent")


def test_specs_from_settings() -> None:
    specs = specs_from([{"name": "a", "kind": "nnunet", "weights_dir": "w"}], threads=2)
    assert specs[0].threads == 2
    with pytest.raises(ValueError, match="same name"):
        specs_from([{"name": "a", "kind": "sam", "weights_dir": "w"}] * 2)
    with pytest.raises(ValueError, match="described"):
        specs_from([{"name": "a", "colour": "red"}])


def test_client_imports_no_torch() -> None:
    code = "import sys, inference.supervisor.client, inference.fusion.gate, inference.fusion.fuse; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_serve_ends_cleanly_on_sigterm_and_leaves_no_child(tmp_path: Path) -> None:
    address = str(tmp_path / "s.sock")
    code = (
        "from pathlib import Path\n"
        "from inference.experts.factory import ExpertSpec\n"
        "from inference.supervisor.server import SupervisorConfig, serve\n"
        f"serve(SupervisorConfig((ExpertSpec('good', 'good', {str(tmp_path)!r}, factory={FACTORY!r}),), {address!r}, "
        f"Path({str(tmp_path / 'key')!r})))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        ends = time.monotonic() + 60
        while not Path(address).exists() and time.monotonic() < ends:
            time.sleep(0.1)
        client = SupervisorClient(address, read_key(tmp_path / "key"))
        client.run("good", volumes(1), 60)
        assert Path(address).stat().st_mode & 0o777 == 0o600
        child = client.health()["experts"]["good"]["pid"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
        assert not Path(address).exists()
        with pytest.raises(ExpertUnavailable):
            client.health()
    finally:
        process.kill()
        process.wait()
