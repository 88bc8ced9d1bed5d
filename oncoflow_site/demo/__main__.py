"""``python -m oncoflow_site.demo``: the service from an empty folder to a signed report, with synthetic patients.

Without arguments the service stays up afterwards until Ctrl-C. ``--once`` checks the values of every step and exits 0, or says
which step failed and exits 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType

from oncoflow_site.demo.display import Display, StepFailed
from oncoflow_site.demo.play import Play
from oncoflow_site.demo.stage import Stage, choose_ports, data_directory


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def addresses(play: Play) -> str:
    """Where to look, and as whom."""
    stage = play.stage
    rows = [
        ("pages", f"{stage.web_url}/"),
        ("administration", f"{stage.web_url}/admin/"),
        ("REST", f"{stage.web_url}/api/docs/"),
        ("FHIR R4", f"{stage.web_url}/fhir/metadata"),
        ("HL7 v2 over MLLP", f"127.0.0.1:{stage.ports['mllp']}"),
        ("DICOM C-STORE", f"ONCOFLOW@127.0.0.1:{stage.ports['dicom']}"),
        ("receiving EMR", f"{stage.emr_url}/fhir (token {stage.emr_token})"),
        ("logs", str(stage.folder / "log")),
    ]
    lines = ["", "The service is running:"] + [f"  {name:18} {value}" for name, value in rows]
    lines += ["", "Accounts (new passwords at every start):"]
    for one in play.accounts.values():
        if one.role != "integration":
            key = f", signing password {one.key_password}" if one.role == "radiologist" else ""
            lines.append(f"  {one.username:8} {one.role:20} password {one.password}{key}")
    lines += [
        "",
        "Synthetic patients, weights trained on simulated patients: nothing here is for clinical use.",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make demo ARGS=...", description="Plays synthetic patients through the service."
    )
    parser.add_argument("--once", action="store_true", help="check every step, then stop; exit 0 if all is right")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    display = Display()
    try:
        ports, sentences = choose_ports()
    except StepFailed as error:
        print(f"oncoflow: {error}", file=sys.stderr)
        return 1
    for sentence in sentences:
        print(sentence)
    stage = Stage(ports, data_directory())
    play = Play(stage, display)
    try:
        play.run()
        if arguments.once:
            from oncoflow_site.demo.checks import check

            check(play)
        print("\n" + display.table())
        if arguments.once:
            return 0
        print(addresses(play), flush=True)
        while True:
            stage.check_alive()
            time.sleep(1)
    except StepFailed as error:
        print("\n" + display.table())
        print(
            f"\noncoflow: step failed: {display.steps[-1].title if display.steps else 'start'}: {error}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nStopping ...", flush=True)
        return 130 if arguments.once else 0  # checks that did not run have not passed
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        play.close()
        stage.stop()


if __name__ == "__main__":
    sys.exit(main())
