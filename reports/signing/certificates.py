"""Keys and X.509 certificates (RFC 5280) for document signing. No database here.

All keys are EC P-256: small signatures, quick to make, and verified by pyHanko and by poppler's pdfsig alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta

from asn1crypto import algos
from asn1crypto import keys as asn1_keys
from asn1crypto import pem as asn1_pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

__all__ = [
    "DOCUMENT_SIGNING",
    "KeyAndCertificate",
    "WrongPassword",
    "fingerprint",
    "load_encrypted_key",
    "make_authority",
    "make_signer",
]

DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
"""id-kp-documentSigning, RFC 9336."""

_KDF_ITERATIONS = 600_000
"""PBKDF2-HMAC-SHA256 iterations, as OWASP's password storage cheat sheet advises."""
_AUTHORITY_YEARS = 10
_SIGNER_YEARS = 2
_CLOCK_SKEW = timedelta(minutes=5)


class WrongPassword(Exception):
    """The password does not open the private key."""


@dataclass(frozen=True)
class KeyAndCertificate:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def certificate_pem(self) -> str:
        """The certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def key_der(self) -> bytes:
        """The private key, PKCS#8 DER, **not** encrypted: only ever handed to the installation's key store."""
        return self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def encrypted_key_pem(self, password: str) -> str:
        """The private key as PKCS#8 PEM, encrypted with ``password`` (PBES2: PBKDF2-HMAC-SHA256, AES-256-CBC).

        Opening it takes a fraction of a second on purpose.
        """
        return _encrypt_pkcs8(self.key_der(), password.encode("utf-8"))


def _encrypt_pkcs8(der: bytes, password: bytes) -> str:
    """PKCS#8 EncryptedPrivateKeyInfo (RFC 5958 section 3) by PBES2 (RFC 8018 section 6.2), PEM.

    Written out here because `cryptography` fixes the iteration count of the files it writes far below today's advice;
    it reads the result like any other.
    """
    salt, vector = os.urandom(16), os.urandom(16)
    derived = PBKDF2HMAC(hashes.SHA256(), length=32, salt=salt, iterations=_KDF_ITERATIONS).derive(password)
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(derived), modes.CBC(vector)).encryptor()
    encrypted = encryptor.update(padder.update(der) + padder.finalize()) + encryptor.finalize()
    kdf = {
        "algorithm": "pbkdf2",
        "parameters": {
            "salt": algos.Pbkdf2Salt(name="specified", value=salt),
            "iteration_count": _KDF_ITERATIONS,
            "key_length": 32,
            "prf": {"algorithm": "sha256"},
        },
    }
    info = asn1_keys.EncryptedPrivateKeyInfo(
        {
            "encryption_algorithm": {
                "algorithm": "pbes2",
                "parameters": {
                    "key_derivation_func": kdf,
                    "encryption_scheme": {"algorithm": "aes256_cbc", "parameters": vector},
                },
            },
            "encrypted_data": encrypted,
        }
    )
    return asn1_pem.armor("ENCRYPTED PRIVATE KEY", info.dump()).decode("ascii")


def load_encrypted_key(pem: str, password: str) -> ec.EllipticCurvePrivateKey:
    """Open a PKCS#8 PEM key; raises `WrongPassword`."""
    if not password:
        raise WrongPassword  # an empty password reads as "no password", which is another error further down
    try:
        key = serialization.load_pem_private_key(pem.encode("ascii"), password=password.encode("utf-8"))
    except ValueError as error:
        raise WrongPassword from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("personal keys are EC keys")
    return key


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER certificate, hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _name(common_name: str, organisation: str, unit: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation[:64])]
    if unit:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit[:64]))
    parts.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]))
    return x509.Name(parts)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, at: datetime, years: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _CLOCK_SKEW)
        .not_valid_after(at + timedelta(days=365 * years))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, sign_documents: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign_documents,
        content_commitment=sign_documents,
        key_cert_sign=not sign_documents,
        crl_sign=not sign_documents,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_authority(common_name: str, organisation: str, at: datetime) -> KeyAndCertificate:
    """A self-signed certificate authority that may issue signing certificates and nothing below them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name, organisation)
    certificate = (
        _builder(name, name, key, at, _AUTHORITY_YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_documents=False), critical=True)
        .sign(key, hashes.SHA256())
    )
    return KeyAndCertificate(key, certificate)


def make_signer(
    authority: KeyAndCertificate, common_name: str, organisation: str, at: datetime, *, unit: str
) -> KeyAndCertificate:
    """A key and a certificate for signing documents, issued by ``authority``.

    :param unit: organisational unit; tells a person's certificate ("Radiology") from the organisation's seal.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    certificate = (
        _builder(_name(common_name, organisation, unit), issuer.subject, key, at, _SIGNER_YEARS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_documents=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([DOCUMENT_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    return KeyAndCertificate(key, certificate)
