"""A PACS over DICOMweb: QIDO-RS and WADO-RS (PS3.18 sections 10.4 and 10.6) through the dicomweb-client library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import requests
from dicomweb_client.api import DICOMwebClient
from django.conf import settings
from pydicom.dataset import Dataset

from imaging.archive.filing_header import MAX_BYTES
from imaging.dicomweb.content_negotiation import parse_media_type
from imaging.dicomweb.multipart import read_parts
from imaging.models import DicomPeer
from imaging.priors.pacs import CREDENTIAL, MAX_FOUND, FoundSeries, FoundStudy, found_series, found_study
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.errors import EngineError, PermanentError, TransientError

__all__ = ["WebPacs"]

_CONNECT_SECONDS = 15
_MAX_ANSWER = 32 << 20  # of a search; 500 studies have a thousandth of it
_DICOM = "application/dicom"


class _AnswerTooLarge(Exception):
    """The answer is not what a PACS sends."""


class _Session(requests.Session):
    """Believes no length and follows no address: an answer that is not streamed has at most `_MAX_ANSWER` bytes, none is
    unpacked, and a redirection, which could lead anywhere in this network, is an error."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As the library's."""
        whole = not kwargs.get("stream")
        answer = super().send(request, **{**kwargs, "stream": True, "allow_redirects": False})
        if 300 <= answer.status_code < 400 or answer.headers.get("Content-Encoding", "identity") != "identity":
            answer.close()
            raise _AnswerTooLarge
        if whole:
            content = bytearray()
            for block in answer.iter_content(1 << 16):
                content += block
                if len(content) > _MAX_ANSWER:
                    answer.close()
                    raise _AnswerTooLarge
            answer._content = bytes(content)
        return answer


class WebPacs:
    """`imaging.priors.pacs.PriorSource` for one peer with a DICOMweb address."""

    def __init__(self, peer: DicomPeer) -> None:
        if not peer.dicomweb_url:
            raise PermanentError(f"the DICOM peer {peer.ae_title} has no DICOMweb address")
        self.peer = peer
        session = _Session()
        session.trust_env = False  # no .netrc, no proxy that nobody configured here
        session.headers["Accept-Encoding"] = "identity"
        if peer.credential:
            secret = keys.decrypt(peer.key_subject, bytes(peer.credential), CREDENTIAL)
            session.headers["Authorization"] = secret.decode("latin-1")
        self.session = session
        self.client = DICOMwebClient(
            peer.dicomweb_url.rstrip("/"),
            session=session,
            timeout=(_CONNECT_SECONDS, settings.ONCOFLOW_DICOM_ANSWER_SECONDS),
        )
        self.client.set_http_retry_params(retry=False)  # our jobs try again, and remember

    def studies(self, patient_id: str, authority: str, since: str) -> list[FoundStudy]:
        """QIDO-RS at the level of studies."""
        with self._asking():
            answers = self.client.search_for_studies(
                search_filters={"PatientID": patient_id, "StudyDate": f"{since}-"},
                fields=["PatientID", "IssuerOfPatientID", "AccessionNumber", "ModalitiesInStudy", "StudyDate"],
                limit=MAX_FOUND,
            )
            return [found_study(Dataset.from_json(one)) for one in answers[:MAX_FOUND]]

    def series(self, study_uid: str, patient_id: str) -> list[FoundSeries]:
        """QIDO-RS at the level of series."""
        with self._asking():
            answers = self.client.search_for_series(study_uid, fields=["NumberOfSeriesRelatedInstances"])
            return [found_series(Dataset.from_json(one)) for one in answers[:MAX_FOUND]]

    def fetch(self, study_uid: str, series_uid: str, patient_id: str, take: Callable[[bytes], None]) -> None:
        """WADO-RS of a series, one instance after the other, in the transfer syntax it is stored in."""
        for file in self._files(study_uid, series_uid):
            take(file)

    def _files(self, study_uid: str, series_uid: str) -> Iterator[bytes]:
        """The files byte for byte as they are sent. The library would parse them, and unpack deflated ones without a limit."""
        with (
            self._asking(),
            self.session.get(
                f"{self.client.base_url}/studies/{study_uid}/series/{series_uid}",
                headers={"Accept": f'multipart/related; type="{_DICOM}"; transfer-syntax=*'},
                timeout=(_CONNECT_SECONDS, settings.ONCOFLOW_DICOM_ANSWER_SECONDS),
                stream=True,
            ) as answer,
        ):
            answer.raise_for_status()
            sent = parse_media_type(answer.headers.get("Content-Type", ""))
            if sent.type == _DICOM:  # one instance, without parts, as some servers do
                yield _bounded(answer)
                return
            for part in read_parts(
                cast(IO[bytes], answer.raw), sent.parameters.get("boundary", ""), largest=MAX_BYTES, skip=False
            ):
                if part.content is not None:
                    yield part.content

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Errors of HTTP and of what came, as ours; the library's may quote addresses with numbers of patients."""
        try:
            yield
        except EngineError:
            raise
        except requests.HTTPError as error:
            code: Any = getattr(error.response, "status_code", "")
            text = f"DICOMweb of {self.peer.ae_title} answered {code}"
            if code in (400, 401, 403, 404, 405, 406, 410):
                raise PermanentError(text, code=str(code)) from None
            raise TransientError(text, code=str(code)) from None
        except requests.RequestException as error:
            raise TransientError(f"DICOMweb of {self.peer.ae_title}: {type(error).__name__}") from None
        except Exception as error:
            raise TransientError(
                f"DICOMweb of {self.peer.ae_title} sent what cannot be read ({type(error).__name__})"
            ) from None


def _bounded(answer: requests.Response) -> bytes:
    data: bytes = answer.raw.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _AnswerTooLarge
    return data
