"""Signing one PDF: PAdES baseline B-B (ETSI EN 319 142-1), certifying, no later change allowed (DocMDP P=1)."""

from __future__ import annotations

import io
from dataclasses import dataclass

from asn1crypto import keys as asn1_keys
from asn1crypto import x509 as asn1_x509
from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign import PdfSignatureMetadata, PdfSigner, SimpleSigner
from pyhanko.sign.fields import MDPPerm, SigFieldSpec, SigSeedSubFilter
from pyhanko.stamp import NoOpStampStyle
from pyhanko_certvalidator.registry import SimpleCertificateStore

from reports.pdf.data import RenderedPdf
from reports.signing.certificates import KeyAndCertificate

__all__ = ["FIELD_NAME", "SignatureBox", "sign_pdf"]

FIELD_NAME = "OncoFlowSignature"


@dataclass(frozen=True)
class SignatureBox:
    """Where the visible signature lies: zero-based page and (left, bottom, right, top) in PDF points."""

    page: int
    rectangle: tuple[int, int, int, int]

    @classmethod
    def of(cls, rendered: RenderedPdf) -> SignatureBox | None:
        """The box of a rendered report; None where it has no signature block."""
        if rendered.signature_page is None or rendered.signature_rectangle is None:
            return None
        return cls(rendered.signature_page, rendered.signature_rectangle)


def sign_pdf(
    pdf: bytes,
    signer: KeyAndCertificate,
    *,
    box: SignatureBox | None,
    name: str,
    reason: str,
    location: str,
) -> bytes:
    """Sign ``pdf`` and return the signed bytes.

    The text of the visible block is drawn by the renderer, in the document's own embedded fonts, underneath the field:
    what a reader sees is thereby part of the signed page itself and not an appearance that a viewer may leave out.

    :param box: where the field lies; None makes an invisible signature.
    :param name: the signer, as in the certificate.
    :param reason: what the signature means, e.g. "I have reviewed this report".
    """
    pdf_signer = PdfSigner(
        PdfSignatureMetadata(
            field_name=FIELD_NAME,
            md_algorithm="sha256",
            subfilter=SigSeedSubFilter.PADES,
            certify=True,
            docmdp_permissions=MDPPerm.NO_CHANGES,
            name=name,
            reason=reason,
            location=location,
        ),
        SimpleSigner(
            signing_cert=asn1_x509.Certificate.load(signer.certificate.public_bytes(Encoding.DER)),
            signing_key=asn1_keys.PrivateKeyInfo.load(signer.key_der()),
            cert_registry=SimpleCertificateStore(),
            # The verifier brings the authority itself. Nothing goes into the container that the signature does not
            # bind: an embedded root could be altered without anybody noticing.
            embed_roots=False,
        ),
        stamp_style=NoOpStampStyle(),
        new_field_spec=SigFieldSpec(
            FIELD_NAME,
            on_page=box.page if box else 0,
            box=box.rectangle if box else None,
            empty_field_appearance=True,
            readable_field_name="Signature of this report",
        ),
    )
    if PdfFileReader(io.BytesIO(pdf)).embedded_signatures:
        raise ValueError("this PDF is signed already; a change is a new version, never a second signature")
    out = pdf_signer.sign_pdf(IncrementalPdfFileWriter(io.BytesIO(pdf)))
    return bytes(out.getbuffer())
