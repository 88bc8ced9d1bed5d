"""Checking the signature of a PDF against one authority and nothing else (no system or web roots)."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, field
from datetime import datetime

from asn1crypto import cms
from asn1crypto import pem as asn1_pem
from asn1crypto import x509 as asn1_x509
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.diff_analysis import ModificationLevel
from pyhanko.sign.fields import MDPPerm
from pyhanko.sign.validation import EmbeddedPdfSignature, validate_pdf_signature
from pyhanko.sign.validation.settings import KeyUsageConstraints
from pyhanko.sign.validation.status import SignatureCoverageLevel
from pyhanko_certvalidator import ValidationContext

__all__ = ["VerifyResult", "verify"]

PADES_SUBFILTER = "/ETSI.CAdES.detached"


@dataclass(frozen=True)
class VerifyResult:
    """Outcome of `verify`. ``valid`` is the only thing to act on; the rest says why.

    :param intact: the digest and the signature over it are right.
    :param trusted: the certificate chains to the given authority and may sign documents.
    :param covers_whole_file: not one byte lies outside the signature.
    :param no_changes_allowed: the signature certifies the document and forbids every later change.
    """

    intact: bool = False
    trusted: bool = False
    covers_whole_file: bool = False
    no_changes_allowed: bool = False
    unmodified: bool = False
    pades: bool = False
    signer: str = ""
    signer_unit: str = ""
    reason: str = ""
    signed_at: datetime | None = None
    certificate_fingerprint: str = ""
    problems: tuple[str, ...] = field(default=())

    @property
    def valid(self) -> bool:
        """True when everything holds."""
        checks = (self.intact, self.trusted, self.covers_whole_file, self.no_changes_allowed, self.unmodified)
        return all(checks) and self.pades and not self.problems


def _authority(trust_pem: str | bytes) -> asn1_x509.Certificate:
    data = trust_pem.encode("ascii") if isinstance(trust_pem, str) else trust_pem
    if not asn1_pem.detect(data):
        raise ValueError("the authority's certificate is not PEM")
    return asn1_x509.Certificate.load(asn1_pem.unarmor(data)[2])


def verify(pdf: bytes, trust_pem: str | bytes) -> VerifyResult:
    """Check the one signature of ``pdf`` against the authority ``trust_pem``.

    Never raises on a bad PDF: hostile bytes give a result that is not valid and names the problem. Raises `ValueError`
    only when ``trust_pem`` itself is no certificate.
    """
    authority = _authority(trust_pem)
    # pyHanko logs a traceback for every broken file; for us that is an ordinary answer.
    logger = logging.getLogger("pyhanko")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return _verify(pdf, authority)
    except Exception as error:  # the parser meets arbitrary bytes here; whatever it trips over means "not valid"
        return VerifyResult(problems=(f"the file cannot be read as a signed PDF ({type(error).__name__})",))
    finally:
        logger.setLevel(level)


def _verify(pdf: bytes, authority: asn1_x509.Certificate) -> VerifyResult:
    reader = PdfFileReader(io.BytesIO(pdf), strict=True)
    signatures = reader.embedded_signatures
    if len(signatures) != 1:
        return VerifyResult(problems=(f"one signature expected, found {len(signatures)}",))
    signature = signatures[0]
    context = ValidationContext(trust_roots=[authority], other_certs=[], allow_fetching=False)
    status = validate_pdf_signature(
        signature,
        signer_validation_context=context,
        key_usage_settings=KeyUsageConstraints(key_usage={"digital_signature", "non_repudiation"}),
    )
    problems: list[str] = []
    if not status.intact:
        problems.append("the signed bytes were altered")
    if not status.valid:
        problems.append("the signature value is wrong")
    trusted = bool(status.trusted) and _may_sign_documents(status.signing_cert)
    if not trusted:
        problems.append("the certificate was not issued by the expected authority, or is not valid for signing")
    whole = status.coverage is SignatureCoverageLevel.ENTIRE_FILE
    if not whole:
        problems.append("the signature does not cover the whole file")
    unmodified = status.modification_level in (None, ModificationLevel.NONE) and status.docmdp_ok is not False
    if not unmodified:
        problems.append("the document was changed after it was signed")
    sig_object = signature.sig_object
    pades = str(sig_object.get("/SubFilter", "")) == PADES_SUBFILTER
    if not pades:
        problems.append("the signature is not PAdES")
    locked = signature.docmdp_level is MDPPerm.NO_CHANGES
    if not locked:
        problems.append("the signature does not forbid later changes")
    problems.extend(_container_problems(pdf, signature))
    subject = status.signing_cert.subject.native
    return VerifyResult(
        intact=bool(status.intact and status.valid),
        trusted=trusted,
        covers_whole_file=whole,
        no_changes_allowed=locked,
        unmodified=unmodified,
        pades=pades,
        signer=str(subject.get("common_name", "")),
        signer_unit=str(subject.get("organizational_unit_name", "")),
        reason=str(sig_object.get("/Reason", "")),
        signed_at=signature.self_reported_timestamp,
        certificate_fingerprint=status.signing_cert.sha256.hex(),
        problems=tuple(problems),
    )


def _may_sign_documents(certificate: asn1_x509.Certificate) -> bool:
    """Whether the certificate is one for signing documents: no authority, digital signature and content commitment.

    Asked here as well, since path validation does not look at the usage of a certificate that is itself the trust anchor.
    """
    usage = certificate.key_usage_value.native if certificate.key_usage_value else set()
    return not certificate.ca and {"digital_signature", "non_repudiation"} <= usage


def _container_problems(pdf: bytes, signature: EmbeddedPdfSignature) -> list[str]:
    """What is wrong in the signature container, the one part of the file that the signed digest leaves out.

    A lax reader ignores a changed byte in the zero padding, another case of a hexadecimal digit, or an unsigned field of
    the CMS structure (RFC 5652). Here the container must read exactly as this service writes it.
    """
    start, length, after, _ = (int(number) for number in signature.byte_range)
    raw = pdf[start + length : after]
    info = cms.ContentInfo.load(bytes(signature.pkcs7_content))
    signed = info["content"]
    written = info.dump(force=True).hex().upper().encode("ascii")
    problems = []
    if raw[:1] != b"<" or raw[-1:] != b">" or raw[1:-1] != written.ljust(len(raw) - 2, b"0"):
        problems.append("the signature container is not as it was written")
    signer_info = signed["signer_infos"][0]
    digests = [entry["algorithm"].native for entry in signed["digest_algorithms"]]
    certificates = signed["certificates"]
    certificate = certificates[0].chosen if len(certificates) == 1 else None
    expected_sid = certificate is not None and (
        signer_info["sid"].name == "issuer_and_serial_number"
        and signer_info["sid"].chosen["issuer"] == certificate.issuer
        and signer_info["sid"].chosen["serial_number"].native == certificate.serial_number
    )
    if (
        not expected_sid
        or signed["version"].native != "v1"
        or signer_info["version"].native != "v1"
        or digests != [signer_info["digest_algorithm"]["algorithm"].native]
        or signed["encap_content_info"]["content_type"].native != "data"
        or len(signed["crls"] or ()) != 0
        or len(signer_info["unsigned_attrs"] or ()) != 0
    ):
        problems.append("the signature container holds something that the signature does not bind")
    return problems
