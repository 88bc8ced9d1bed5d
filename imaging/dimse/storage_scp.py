"""The storage SCP: who may associate, and one handler for C-STORE that answers after the instance is durable."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from socketserver import BaseServer
from typing import Any, cast

from django.conf import settings
from django.db import connection
from pydicom.dataset import Dataset
from pynetdicom import (
    AE,
    PYNETDICOM_IMPLEMENTATION_UID,
    PYNETDICOM_IMPLEMENTATION_VERSION,
    AllStoragePresentationContexts,
    evt,
)
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from audit import services as audit
from imaging.archive.filing_header import OUT_OF_RESOURCES
from imaging.archive.store_instance import ReceiveCache, store_instance
from imaging.dicom.file_meta import Implementation, file_meta
from imaging.dicom.transfer_syntaxes import ACCEPTED, NATIVE_LITTLE
from imaging.dimse import storage_commitment
from imaging.dimse.transport import MAX_PDU, Server, in_flight
from imaging.models import DicomPeer, StudySource
from oncoflow_site.foundation.errors import error_frames, required, safe_error_text
from oncoflow_site.foundation.request_id import bind_request_id

__all__ = ["StorageScp"]

logger = logging.getLogger(__name__)

WRITER = Implementation(str(PYNETDICOM_IMPLEMENTATION_UID), PYNETDICOM_IMPLEMENTATION_VERSION)
# A-ASSOCIATE-RJ (PS3.8 Table 9-21): rejected permanently, by the service user, calling AE title not recognised
STRANGER = (0x01, 0x01, 0x03)
# rejected transiently, by the presentation service provider, local limit exceeded; pynetdicom says the same by itself when
# there are too many associations
LOCAL_LIMIT = (0x02, 0x03, 0x02)


class StorageScp:
    """A listening application entity. One thread an association; each has its own database connection.

    :param ae_title: called AE title that senders must use.
    """

    def __init__(self, ae_title: str) -> None:
        self.ae = AE(ae_title=ae_title)
        self.ae.require_called_aet = True
        self.ae.maximum_associations = settings.ONCOFLOW_DICOM_MAX_ASSOCIATIONS
        self.ae.maximum_pdu_size = MAX_PDU
        self.ae.acse_timeout = 30
        self.ae.dimse_timeout = 60
        self.ae.network_timeout = 300
        self.ae.add_supported_context(Verification, list(NATIVE_LITTLE))
        for context in AllStoragePresentationContexts:
            self.ae.add_supported_context(required(context.abstract_syntax, "an abstract syntax"), list(ACCEPTED))
        # Storage commitment, push model: we are its SCP
        self.ae.add_supported_context(StorageCommitmentPushModel, list(NATIVE_LITTLE))
        self._servers: list[Server] = []
        self._running = threading.Lock()
        self._in_handler = 0

    def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; returns the port (useful where 0 was asked for). It may be called again for another port.

        :param tls: associations begin with a TLS handshake. :raises OSError: the port is taken.
        """
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_RELEASED, self._ended),
            (evt.EVT_ABORTED, self._ended),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._commitment),
        ]
        server = cast(
            Server, self.ae.make_server((host, port), evt_handlers=handlers, server_class=Server, ssl_context=tls)
        )
        threading.Thread(target=server.serve_forever, name="dicom-listener", daemon=True).start()
        self._servers.append(server)
        return int(required(server.socket, "the listening socket").getsockname()[1])

    def stop(self, grace_s: float = 5.0) -> bool:
        """Stop listening, let associations finish what they are storing, then end them.

        :returns: False when a peer's connection did not end in time; its thread then lives on, storing nothing.
        """
        if not self._servers:
            return True
        for server in self._servers:
            BaseServer.shutdown(server)  # no new associations; those that are open go on
        self._wait(grace_s, lambda: bool(self.ae.active_associations or self._in_handler))
        for assoc in self.ae.active_associations:
            # Not AE.shutdown(): it waits for each peer to close its end, and a peer may never do so.
            if assoc.is_established:
                assoc.abort(block=False)
            else:  # a connection that never asked for an association has no state to abort
                assoc.dul.kill_dul()
        self._wait(2.0, lambda: bool(self.ae.active_associations or self._in_handler))
        for server in self._servers:
            server.server_close()
        self._servers.clear()
        return not self.ae.active_associations

    @staticmethod
    def _wait(seconds: float, busy: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and busy():
            time.sleep(0.05)

    # --- associations

    def _requested(self, event: Event) -> None:
        """Refuse strangers before any negotiation."""
        assoc = event.assoc
        title = str(assoc.requestor.primitive.calling_ae_title).strip()  # type: ignore[union-attr]
        address = str(assoc.requestor.address or "")
        try:
            if in_flight.total > settings.ONCOFLOW_DICOM_MAX_BYTES_IN_FLIGHT:
                assoc.acse.send_reject(*LOCAL_LIMIT)
                assoc.kill()
                logger.warning("association refused: too many bytes are on their way already")
                return
            peer = DicomPeer.objects.filter(ae_title=title, active=True).first()
            if peer is None or (peer.check_host and not _is_host(peer.host, address)):
                assoc.acse.send_reject(*STRANGER)
                evt.trigger(assoc, evt.EVT_REJECTED, {})
                assoc.kill()
        except Exception as error:  # the database is away: nobody is let in on a guess
            logger.error("association refused: %s", safe_error_text(error))
            assoc.acse.send_reject(0x02, 0x03, 0x01)  # transient, presentation, temporary congestion
            assoc.kill()
        finally:
            connection.close()

    def _rejected(self, event: Event) -> None:
        # The title is a stranger's text: it may be anything, so only what a title may hold is kept.
        primitive = event.assoc.requestor.primitive
        title = "".join(char for char in str(primitive.calling_ae_title) if char.isalnum() or char in "_-")[:16]  # type: ignore[union-attr]
        try:
            with audit.acting_as(audit.Actor.peer(title or "unknown"), source="dicom"):
                audit.record_refusal("dicom.refuse", action="E", resource="association:refused", detail={"peer": title})
        except Exception as error:
            logger.error("a refused association was not recorded: %s", safe_error_text(error))
        finally:
            connection.close()
        logger.warning("association of %s refused", title)

    def _established(self, event: Event) -> None:
        event.assoc.oncoflow_cache = ReceiveCache()  # type: ignore[attr-defined]

    def _ended(self, event: Event) -> None:
        connection.close()  # this thread's

    # --- services

    def _echo(self, event: Event) -> int:
        return 0x0000

    def _commitment(self, event: Event) -> tuple[int, None]:
        """N-ACTION Request Storage Commitment (PS3.4 section J.3.2): kept before 0x0000 goes out, reported later."""
        title = str(event.assoc.requestor.ae_title).strip()
        try:
            with bind_request_id(), audit.acting_as(audit.Actor.peer(title), source="dicom"):
                request: Any = event.request
                if str(request.RequestedSOPInstanceUID) != storage_commitment.PUSH_MODEL_INSTANCE:
                    return 0x0112, None  # no such SOP instance
                peer = DicomPeer.objects.get(ae_title=title, active=True)
                return storage_commitment.answer(peer, event.action_type, event.action_information), None
        except Exception as error:
            text, frames = safe_error_text(error), error_frames(error)
            logger.error("a storage commitment request of %s failed: %s [%s]", title, text, frames)
            connection.close()
            return 0x0110, None  # processing failure

    def _store(self, event: Event) -> int | Any:
        """One C-STORE: stored, encrypted and committed before 0x0000 goes out."""
        with self._running:
            self._in_handler += 1
        assoc = event.assoc
        title = str(assoc.requestor.ae_title).strip()
        cache = getattr(assoc, "oncoflow_cache", None)
        try:
            with ExitStack() as stack:
                stack.enter_context(bind_request_id())
                stack.enter_context(audit.acting_as(audit.Actor.peer(title), source="dicom"))
                request: Any = event.request
                data = b"".join(
                    (
                        file_meta(
                            str(request.AffectedSOPClassUID),
                            str(request.AffectedSOPInstanceUID),
                            str(event.context.transfer_syntax),
                            WRITER,
                        ),
                        request.DataSet.getbuffer(),
                    )
                )
                stored = store_instance(data, source=StudySource.DICOM, peer=title, cache=cache)
                if stored.status:
                    logger.warning("C-STORE of %s refused %04X: %s", title, stored.status, stored.reason)
                return _answer(stored.status, stored.reason)
        except MemoryError:
            return _answer(OUT_OF_RESOURCES, "not enough memory")
        except Exception as error:  # the sender must learn that it was not stored
            logger.error("C-STORE of %s failed: %s [%s]", title, safe_error_text(error), error_frames(error))
            connection.close()
            return _answer(OUT_OF_RESOURCES, "it could not be stored")  # not the sender's fault: it tries again
        finally:
            with self._running:
                self._in_handler -= 1


def _answer(status: int, reason: str) -> int | Any:
    """Status with its Error Comment (0000,0902), LO, at most 64 characters."""
    if status == 0:
        return 0x0000
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = reason[:64]
    return answer


def _is_host(host: str, address: str) -> bool:
    if host == address:
        return True
    try:
        return address in {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
