"""The main way through the service by its real doors: an HL7 order over MLLP, the images by C-STORE, workers, the sealed PDF,
and its delivery to a FHIR and to an HL7 receiver. Only the experts are stand-ins: they read the tumour off the paint."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from django.core.management import call_command
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from clinical.models import Order
from fhir_api.hl7v2.er7 import parse
from fhir_api.models import Peer
from imaging.dimse.storage_scp import StorageScp
from imaging.models import DicomPeer, Study
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Delivery
from reports.models import Report
from reports.signing.keyring import init_signing, trust_pem
from reports.signing.verify import verify
from tests.durability.receivers import Receivers
from tests.factories import painted_files
from tests.factories.hl7_messages import Wire, msa, omi
from tests.factories.panels import GOOD, Panel, panel_of

__all__ = ["panel_of"]  # a fixture

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    both = Receivers()
    yield both
    both.close()


@pytest.fixture
def scp_port() -> Iterator[int]:
    DicomPeer.objects.create(ae_title="SCANNER1")
    scp = StorageScp("ONCOFLOW")
    yield scp.start("127.0.0.1", 0)
    scp.stop(1.0)


def order() -> bytes:
    """The order of the painted study's patient, for its accession number."""
    message = omi(order="P1", accession="ACC-1", mrn=painted_files.MRN).decode()
    message = message.replace("Beispiel^Anna||19610430", "Quastenflosser^Hildegund||19610423")
    return message.replace("1.2.840.99.1", "1.2.3.1").encode()


def store(port: int) -> None:
    ae = AE(ae_title="SCANNER1")
    ae.add_requested_context(MRImageStorage)
    association = ae.associate("127.0.0.1", port, ae_title="ONCOFLOW")
    assert association.is_established
    statuses = {int(association.send_c_store(dcmread(BytesIO(one))).Status) for one in painted_files.files(1)}
    association.release()
    assert statuses == {0}


def test_from_the_order_to_the_delivered_report(
    hl7_peer: Peer, wire: Callable[[], Wire], scp_port: int, receivers: Receivers, panel_of: Panel, settings: Any
) -> None:
    settings.ONCOFLOW_STUDY_QUIET_SECONDS = 0.0
    init_signing()
    for name, address in zip(("fhir", "mllp"), receivers.addresses, strict=True):
        call_command("add_endpoint", f"emr-{name}", name, address)
    panel_of(("one", "good", GOOD), ("two", "good", GOOD))

    answer = wire().ask(order())
    assert msa(answer)[0] == "AA"
    run_pending()
    placed = Order.objects.get()
    store(scp_port)
    run_pending()

    study = Study.objects.get()
    assert study.order == placed
    report = Report.objects.get(study=study)
    version = report.versions.get(issued_at__isnull=False)
    assert (report.state, version.status) == ("preliminary", "preliminary"), report.state_reason
    assert {one.state for one in Delivery.objects.all()} == {"delivered"}

    (bundle,) = (json.loads(body) for body in receivers.bundles)
    resources = [entry["resource"] for entry in bundle["entry"]]
    (told,) = [one for one in resources if one["resourceType"] == "DiagnosticReport"]
    assert told["basedOn"][0]["identifier"]["value"] == "P1"
    assert told["status"] == "preliminary"
    (patient,) = [one for one in resources if one["resourceType"] == "Patient"]
    assert painted_files.MRN in {one["value"] for one in patient["identifier"]}
    (binary,) = [one for one in resources if one["resourceType"] == "Binary"]
    pdf = base64.b64decode(binary["data"])
    assert verify(pdf, trust_pem()).valid
    (message,) = receivers.messages
    oru = parse(message)
    assert oru.first("OBR").field(2) == "P1^EMR^1.2.9^ISO"
    assert oru.first("OBR").get(25) == "P"
    assert base64.b64encode(pdf) in message
