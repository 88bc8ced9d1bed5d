"""Associations that we open: to report a storage commitment, and to ask a PACS for earlier studies."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from pynetdicom import AE, build_role
from pynetdicom.association import Association

from imaging.dicom.transfer_syntaxes import NATIVE_LITTLE
from imaging.dimse.transport import bound_answers
from imaging.models import DicomPeer
from oncoflow_site.foundation.errors import PermanentError, TransientError

__all__ = ["calling", "client_context", "server_context"]


def server_context() -> ssl.SSLContext | None:
    """For our listener, None where no certificate is configured. BCP 195: TLS 1.2 or later (PS3.15 section B.12)."""
    certificate = settings.ONCOFLOW_DICOM_TLS_CERTIFICATE
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, settings.ONCOFLOW_DICOM_TLS_KEY or None)
    if settings.ONCOFLOW_DICOM_TLS_CA:
        context.load_verify_locations(settings.ONCOFLOW_DICOM_TLS_CA)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context() -> ssl.SSLContext:
    """For associations that we open: the configured authority (else the system's), our certificate if there is one."""
    context = ssl.create_default_context(cafile=settings.ONCOFLOW_DICOM_TLS_CA or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.ONCOFLOW_DICOM_TLS_CERTIFICATE:
        context.load_cert_chain(settings.ONCOFLOW_DICOM_TLS_CERTIFICATE, settings.ONCOFLOW_DICOM_TLS_KEY or None)
    return context


@contextmanager
def calling(peer: DicomPeer, classes: Sequence[str], *, as_scp: bool = False) -> Iterator[Association]:
    """An established association with ``peer`` for ``classes``; released at the end, aborted after an error.

    :param as_scp: propose the SCP role (PS3.7 D.3.3.4), as an N-EVENT-REPORT on an association of our own needs.
    :raises PermanentError: the peer has no address. :raises TransientError: no association, or a class refused.
    """
    if not peer.host or not peer.port:
        raise PermanentError(f"the DICOM peer {peer.ae_title} has no host and port")
    ae = AE(ae_title=str(settings.ONCOFLOW_DICOM_AE_TITLE))
    ae.acse_timeout = ae.connection_timeout = 30
    ae.dimse_timeout, ae.network_timeout = settings.ONCOFLOW_DICOM_ANSWER_SECONDS, None
    roles: list[Any] = []
    for one in classes:
        ae.add_requested_context(one, list(NATIVE_LITTLE))
        if as_scp:
            roles.append(build_role(one, scp_role=True))
    assoc = ae.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        ext_neg=roles,
        tls_args=(client_context(), peer.host) if peer.tls else None,
    )
    if not assoc.is_established:
        raise TransientError(f"no association with {peer.ae_title}: {'rejected' if assoc.is_rejected else 'no answer'}")
    bound_answers(assoc)
    try:
        accepted = {context.abstract_syntax for context in assoc.accepted_contexts}
        if missing := [one for one in classes if one not in accepted]:
            raise TransientError(f"{peer.ae_title} does not accept {', '.join(missing)}")
        yield assoc
    except BaseException:
        assoc.abort()
        raise
    assoc.release()
