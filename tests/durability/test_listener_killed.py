"""The DICOM listener killed while it receives: what it acknowledged is there, decrypts, and is filed once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from tests.benchmarks.listener import CALLED, CALLING, ROOT, OurListener, our_listener
from tests.factories.dicom_files import as_file, dataset

pytestmark = pytest.mark.slow
KILLS = 2

LOOK = """
import json
from imaging.models import Instance
from imaging.identifiers import open_sop_instance_uid
from oncoflow_site.foundation import objects
found = []
for row in Instance.objects.select_related("original"):
    objects.get(row.original)  # raises where the bytes are not what they were
    found.append(open_sop_instance_uid(row.original.subject, bytes(row.ciphertext)))
print(json.dumps(found))
"""


def _send(port: int, study: int) -> list[str]:
    """UIDs acknowledged with success until the connection breaks."""
    ae = AE(ae_title=CALLING)
    ae.add_requested_context(MRImageStorage)
    ae.acse_timeout = ae.dimse_timeout = 10
    assoc = ae.associate("127.0.0.1", port, ae_title=CALLED)
    done: list[str] = []
    for number in range(1, 1000):
        if not assoc.is_established:
            break
        one = dcmread(BytesIO(as_file(dataset(study=f"1.2.3.{study}", number=number, size=32))))
        try:
            status = assoc.send_c_store(one)
        except RuntimeError:  # the association ended between the look and the call
            break
        if "Status" not in status:
            break
        assert status.Status == 0
        done.append(str(one.SOPInstanceUID))
    return done


def _kill_while_receiving(listener: OurListener, first_study: int) -> list[str]:
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(_send, listener.port, first_study + number) for number in range(3)]
        time.sleep(random.uniform(0.5, 2.0))
        listener.process.kill()
        listener.process.wait()
        return [uid for one in running for uid in one.result()]


def test_what_was_acknowledged_is_there_after_a_kill() -> None:
    acknowledged: list[str] = []
    with our_listener() as listener:
        for kill in range(KILLS):
            acknowledged += _kill_while_receiving(listener, 10 * kill)
            if kill < KILLS - 1:
                listener.restart()
        looked = subprocess.run(
            [sys.executable, "manage.py", "shell", "-v", "0", "-c", LOOK],
            cwd=ROOT,
            env=listener.environment,
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(looked.stdout.splitlines()[-1])
    assert acknowledged, "the listener was killed before it answered anything"
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    # at most one an association was stored and not answered any more
    assert len(found) <= len(acknowledged) + 3 * KILLS
