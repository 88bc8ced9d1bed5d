"""pynetdicom's transport for a busy acceptor: woken by data instead of polling, and bounded in time and memory.

pynetdicom's two threads of an association look for work every millisecond and read a socket in pieces of 4 KiB, which costs
several milliseconds an instance. These subclasses change how they wait and read, and nothing of the protocol: the state
machine (PS3.8 section 9.2), negotiation and DIMSE stay the library's.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any, cast

from pynetdicom import _config
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from oncoflow_site.foundation.errors import required

__all__ = ["MAX_ANSWER", "MAX_MESSAGE", "MAX_PDU", "InFlight", "Server", "bound_answers", "in_flight"]

logger = logging.getLogger(__name__)
# The library's handlers format every message for its debug log, whether anybody reads it or not.
_config.LOG_HANDLER_LEVEL = "none"

MAX_PDU = 1 << 18
MAX_MESSAGE = 1 << 30  # of one data set; see `imaging.archive.filing_header.MAX_BYTES`
MAX_ANSWER = 4 << 20  # of an identifier or a status, which have some hundreds of bytes
_MAX_ASSOCIATE_PDU = 1 << 20  # 128 presentation contexts with 30 transfer syntaxes each need a quarter of it
_MAX_WAITING = 8  # requests; one at a time is negotiated (PS3.7 D.3.3.3), a C-CANCEL may come between
_WAIT = 0.05
_HANDSHAKE_SECONDS = 15.0
_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


class InFlight:
    """Bytes of data sets that are arriving now, over all associations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0

    def add(self, count: int) -> None:
        """More bytes (or fewer, if negative) are held."""
        with self._lock:
            self.total += count


in_flight = InFlight()


class _Socket(AssociationSocket):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun = time.monotonic()

    def recv(self, nr_bytes: int) -> bytearray:
        """``nr_bytes`` from the peer in one buffer, fewer when it closes. :raises OSError: too many, too slow."""
        if nr_bytes > _MAX_ASSOCIATE_PDU:
            raise OSError("a PDU longer than was negotiated")
        buffer, have = bytearray(nr_bytes), 0
        view = memoryview(buffer)
        if self.assoc.is_established:
            deadline = time.monotonic() + (self.assoc.network_timeout or 300.0)
        else:  # who is nobody yet has no more time for it than the request of an association may take
            deadline = self._begun + (self.assoc.acse_timeout or 30.0)
        while have < nr_bytes:
            cast(socket.socket, self.socket).settimeout(max(0.05, deadline - time.monotonic()))
            if _QUICK_ACK is not None:
                # A sender with Nagle's algorithm on waits for our acknowledgement between two writes; the kernel would
                # hold it back for 40 ms. The option does not last, so it is set each time.
                cast(socket.socket, self.socket).setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
            count = cast(socket.socket, self.socket).recv_into(view[have:])
            if not count:
                view.release()
                return buffer[:have]
            have += count
            if time.monotonic() > deadline:
                raise TimeoutError("a PDU took too long")
        return buffer


class _Dul(DULServiceProvider):
    """Waits in ``select`` for the peer or for something to send, whichever comes first."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._run_loop_delay = 0.0
        self._wakes, self._waker = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._waker, False)
        self._ended = threading.Lock()

    def _wake(self) -> None:
        with self._ended, suppress(OSError):
            if self._waker >= 0:
                os.write(self._waker, b"\0")

    def send_pdu(self, primitive: Any) -> None:
        """As the library's, and wake the thread that sends."""
        super().send_pdu(primitive)
        self._wake()

    def kill_dul(self) -> None:
        """As the library's, and at once."""
        super().kill_dul()
        self._wake()

    def run_reactor(self) -> None:
        """As the library's; the pipe ends with it."""
        try:
            super().run_reactor()
        finally:
            self.close_pipe()
            cast(_Dimse, self.assoc.dimse).release()

    def close_pipe(self) -> None:
        """Give back the two descriptors."""
        with self._ended:
            if self._waker >= 0:
                os.close(self._waker)
                os.close(self._wakes)
                self._waker = self._wakes = -1

    def _is_transport_event(self) -> bool:
        sock = self.socket.socket if self.socket is not None else None
        if sock is not None and self.state_machine.current_state != "Sta13" and self.event_queue.empty():
            if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
                with suppress(OSError, ValueError):
                    ready, _, _ = select.select([sock.fileno(), self._wakes], [], [], _WAIT)
                    if self._wakes in ready:
                        os.read(self._wakes, 4096)
                        return False  # something to send; the data, if any, come next
        return super()._is_transport_event()


class _Dimse(DIMSEServiceProvider):
    """Hands a message over as soon as it is complete, and gives up one that grows without end."""

    _held = 0

    def get_msg(self, block: bool = False) -> Any:
        """As the library's; without ``block`` it waits for a moment all the same, where the library would sleep."""
        if block:
            return super().get_msg(block=True)
        with suppress(Exception):  # queue.Empty
            return self.msg_queue.get(timeout=0.01)
        return None, None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """As the library's. A data set above `MAX_MESSAGE` ends the association."""
        count = sum(len(value) for _, value in primitive.presentation_data_value_list)
        if self._held + count > MAX_MESSAGE or self.msg_queue.qsize() > _MAX_WAITING:
            logger.warning("a data set too large, or requests that do not wait for their answer: association aborted")
            self.release()
            self.message = None
            self.dul.event_queue.put("Evt19")  # abort by the service provider
            return
        self._held += count
        in_flight.add(count)
        super().receive_primitive(primitive)
        if self.message is None:
            self.release()

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """As the library's; a plain C-STORE response, the same few bytes each time, is written directly."""
        if not isinstance(primitive, C_STORE) or primitive.MessageIDBeingRespondedTo is None or primitive.ErrorComment:
            super().send_msg(primitive, context_id)
            return
        data = P_DATA()
        data.presentation_data_value_list = [[context_id, b"\x03" + _store_response(primitive)]]  # type: ignore[list-item]
        self.dul.send_pdu(data)

    def release(self) -> None:
        """The bytes of the message are the handler's now, or gone."""
        in_flight.add(-self._held)
        self._held = 0


class _Answers(DIMSEServiceProvider):
    """Of an association that we opened: gives up an answer that grows without end."""

    _held = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """As the library's. A message above `MAX_ANSWER` ends the association."""
        self._held += sum(len(value) for _, value in primitive.presentation_data_value_list)
        if self._held > MAX_ANSWER:
            logger.warning("an answer too large: association aborted")
            self.message = None
            self.dul.event_queue.put("Evt19")  # abort by the service provider
            return
        super().receive_primitive(primitive)
        if self.message is None:
            self._held = 0


def bound_answers(assoc: Association) -> None:
    """From now on a message of the peer has at most `MAX_ANSWER` bytes."""
    assoc.dimse = _Answers(assoc)


def _store_response(primitive: C_STORE) -> bytes:
    """Command set of a C-STORE-RSP (PS3.7 Table 9.3-2), implicit little endian."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    elements = b"".join(
        (
            element(0x0002, str(primitive.AffectedSOPClassUID).encode("ascii")),
            element(0x0100, b"\x01\x80"),  # C-STORE-RSP
            element(0x0120, struct.pack("<H", primitive.MessageIDBeingRespondedTo)),
            element(0x0800, b"\x01\x01"),  # no data set
            element(0x0900, struct.pack("<H", primitive.Status)),
            element(0x1000, str(primitive.AffectedSOPInstanceUID).encode("ascii")),
        )
    )
    return element(0x0000, struct.pack("<I", len(elements))) + elements


class _Handler(RequestHandler):
    def _create_association(self) -> Association:
        server = cast(Server, self.server)
        assoc = Association(self.ae, MODE_ACCEPTOR)
        assoc._server = server
        assoc.dul = _Dul(assoc)
        assoc.dimse = _Dimse(assoc)
        assoc.name = f"AcceptorThread@{time.time():.6f}"
        assoc.set_socket(_Socket(assoc, client_socket=self.request))
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        # Negotiation only reads them; the library copies all two hundred for each association.
        assoc.acceptor.supported_contexts = server.contexts
        assoc.requestor.address_info = self.remote
        for event, handlers in server._handlers.items():
            if event.is_intervention:
                if handlers:
                    assoc.bind(event, *cast(Any, handlers))
            else:
                for handler, arguments in cast(Any, handlers):
                    assoc.bind(event, handler, arguments)
        return assoc


class Server(ThreadedAssociationServer):
    """The library's server. TLS handshakes happen in the connection's own thread, where they hold up nobody else."""

    request_queue_size = 64

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lock = threading.Lock()
        self._starting: Counter[str] = Counter()  # connections without an association yet, by address
        super().__init__(*args, **{**kwargs, "request_handler": _Handler})

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept; nothing here waits for the peer."""
        connection, address = required(self.socket, "the listening socket").accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(self.ae.network_timeout)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Connections that ask for no association must not fill the process with threads, and those of one address must not
        take all the room there is for them."""
        host, most = client_address[0], self.ae.maximum_associations
        waiting = [str(one.requestor.address) for one in self.active_associations if not one.is_established]
        with self._lock:
            starting = dict(self._starting)
        mine = waiting.count(host) + starting.get(host, 0)
        # The library counts them against the associations: a quarter of these is for others.
        return mine < max(1, 3 * most // 4) and len(self.active_associations) + sum(starting.values()) < 2 * most + 8

    def process_request(self, request: Any, client_address: Any) -> None:
        """As the library's; from here on the connection is counted, before there is a thread or an association of it."""
        self._count(client_address[0], 1)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The connection's thread: TLS first, where it is asked for. At its end the association counts for itself."""
        try:
            if self.ssl_context is not None:
                try:
                    request = _hands_shaken(self.ssl_context, request)
                    request.settimeout(self.ae.network_timeout)
                except (OSError, ValueError) as error:
                    logger.warning("a TLS handshake failed (%s)", type(error).__name__)
                    self.shutdown_request(request)
                    return
            super().process_request_thread(request, client_address)
        finally:
            self._count(client_address[0], -1)

    def _count(self, host: str, change: int) -> None:
        with self._lock:
            self._starting[host] += change
            if not self._starting[host]:
                del self._starting[host]


def _hands_shaken(context: ssl.SSLContext, plain: socket.socket) -> ssl.SSLSocket:
    """The connection under TLS. :raises OSError: refused, or not done in time, however slowly it goes on."""
    wrapped = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
    try:
        wrapped.setblocking(False)
        deadline = time.monotonic() + _HANDSHAKE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                select.select([wrapped], [], [], left)
            except ssl.SSLWantWriteError:
                select.select([], [wrapped], [], left)
        raise TimeoutError("a TLS handshake took too long")
    except BaseException:
        wrapped.close()
        raise
