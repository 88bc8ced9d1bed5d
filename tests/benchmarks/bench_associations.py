"""Growth of the DICOM listener's memory over many associations, each a C-ECHO and a C-STORE.

    make bench NAME=associations ARGS="--associations 1000"

Resident memory is read after a warm-up of 50 associations and at the end; ``growth_mb`` is the difference in MB (10**6 bytes).
"""

from __future__ import annotations

import argparse
import json
import time
from io import BytesIO

from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage, Verification

from tests.benchmarks.listener import CALLED, CALLING, our_listener
from tests.factories.dicom_files import as_file, dataset

WARM_UP = 50


def _one(port: int, number: int, size: int) -> None:
    ae = AE(ae_title=CALLING)
    ae.add_requested_context(Verification)
    ae.add_requested_context(MRImageStorage)
    assoc = ae.associate("127.0.0.1", port, ae_title=CALLED)
    if not assoc.is_established:
        raise RuntimeError("the association was refused")
    one = dataset(study=f"1.2.3.{number // 100 + 1}", number=number + 1, size=size)
    statuses = [assoc.send_c_echo().Status, assoc.send_c_store(dcmread(BytesIO(as_file(one)))).Status]
    assoc.release()
    if any(statuses):
        raise RuntimeError(f"refused with {statuses}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--associations", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256, help="rows and columns of a slice")
    arguments = parser.parse_args()
    with our_listener() as listener:
        for number in range(WARM_UP):
            _one(listener.port, number, arguments.size)
        before, began = listener.rss_mb(), time.perf_counter()
        print(f"{'associations':>13}{'resident MB':>13}")
        print(f"{0:>13}{before:>13.1f}")
        for number in range(arguments.associations):
            _one(listener.port, WARM_UP + number, arguments.size)
            if (number + 1) % max(1, arguments.associations // 10) == 0:
                print(f"{number + 1:>13}{listener.rss_mb():>13.1f}")
        seconds, after = time.perf_counter() - began, listener.rss_mb()
    result = {
        "bench": "associations",
        "associations": arguments.associations,
        "before_mb": round(before, 1),
        "after_mb": round(after, 1),
        "growth_mb": round(after - before, 1),
        "associations_per_s": round(arguments.associations / seconds, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
