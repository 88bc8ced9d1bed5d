"""The signing keys of this installation: authority, organisation's seal, personal keys.

Seal and authority are encrypted by the installation's keysets: the service itself may use them. A personal key is encrypted
by its owner's password: without the person the service cannot sign in that person's name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from audit.services import Actor, record
from clinical.roles import can
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from reports.models import CertificateAuthority, PersonalKey, SealKey
from reports.signing.certificates import KeyAndCertificate, load_encrypted_key, make_authority, make_signer

__all__ = [
    "SEAL_UNIT",
    "active_authority",
    "active_personal_key",
    "active_seal",
    "init_signing",
    "issue_personal_key",
    "open_seal",
    "revoke_personal_key",
    "trust_pem",
    "unlock",
]

_SUBJECT = "signing"
_AUTHORITY_CONTEXT, _SEAL_CONTEXT = "reports.CertificateAuthority", "reports.SealKey"
SEAL_UNIT = "Organisation seal"


def active_authority() -> CertificateAuthority | None:
    """The authority that issues certificates now."""
    return CertificateAuthority.objects.filter(revoked_at__isnull=True).first()


def active_seal() -> SealKey | None:
    """The organisation's seal in use."""
    return SealKey.objects.filter(revoked_at__isnull=True).select_related("authority").first()


def active_personal_key(user: Any) -> PersonalKey | None:
    """The person's signing key in use, or None."""
    return PersonalKey.objects.filter(user=user, revoked_at__isnull=True).select_related("authority").first()


def trust_pem() -> str:
    """Certificate of the authority, PEM: what a verifier has to trust. Raises `UserVisibleError` where there is none."""
    return _required_authority().certificate


def _not_ready() -> UserVisibleError:
    return UserVisibleError(
        "This installation has no signing keys.",
        what_to_do="Run `manage.py init_signing` once, then try again.",
        code="no-signing-keys",
    )


def _required_authority() -> CertificateAuthority:
    authority = active_authority()
    if authority is None:
        raise _not_ready()
    return authority


def _open(row: CertificateAuthority | SealKey, context: str) -> KeyAndCertificate:
    key = load_der_private_key(keys.decrypt(_SUBJECT, bytes(row.private_key), context), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("signing keys are EC keys")
    return KeyAndCertificate(key, x509.load_pem_x509_certificate(row.certificate.encode("ascii")))


def init_signing(at: datetime | None = None) -> tuple[CertificateAuthority, SealKey]:
    """Create the demonstration authority and the seal where they are missing; what exists is kept."""
    moment = at or now()
    hospital = str(settings.ONCOFLOW_HOSPITAL_NAME)
    with transaction.atomic():
        authority = active_authority()
        if authority is None:
            made = make_authority(f"{hospital} signing authority (demonstration)", hospital, moment)
            authority = CertificateAuthority.objects.create(
                common_name=_common_name(made.certificate),
                certificate=made.certificate_pem(),
                private_key=keys.encrypt(_SUBJECT, made.key_der(), _AUTHORITY_CONTEXT),
            )
            _record_authority(authority, "authority")
        seal = active_seal()
        if seal is None:
            made = make_signer(
                _open(authority, _AUTHORITY_CONTEXT), f"{hospital} organisation seal", hospital, moment, unit=SEAL_UNIT
            )
            seal = SealKey.objects.create(
                authority=authority,
                common_name=_common_name(made.certificate),
                certificate=made.certificate_pem(),
                private_key=keys.encrypt(_SUBJECT, made.key_der(), _SEAL_CONTEXT),
            )
            _record_authority(authority, "seal")
    return authority, seal


def _record_authority(authority: CertificateAuthority, what: str) -> None:
    record("signing.authority", action="C", resource=f"certificate-authority:{authority.pk}", detail={"what": what})


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def open_seal() -> tuple[KeyAndCertificate, SealKey]:
    """The seal, ready to sign. Raises `UserVisibleError` where there is none or it has expired."""
    row = active_seal()
    if row is None:
        raise _not_ready()
    opened = _open(row, _SEAL_CONTEXT)
    _require_valid(
        opened.certificate, "The organisation's seal has expired.", "Revoke it and run `manage.py init_signing`."
    )
    return opened, row


def _require_valid(certificate: x509.Certificate, message: str, what_to_do: str) -> None:
    if not certificate.not_valid_before_utc <= now() <= certificate.not_valid_after_utc:
        raise UserVisibleError(message, what_to_do=what_to_do, code="certificate-expired")


def issue_personal_key(user: Any, password: str, *, by: Actor | None = None, replace: bool = False) -> PersonalKey:
    """Make a signing key for ``user``, locked with ``password``.

    :param password: known to that person only; it is not stored and cannot be reset, only a new key issued.
    :param replace: revoke the key the person has; what it signed stays valid evidence.
    :raises UserVisibleError: weak password, a role that does not sign reports, or a key exists already.
    """
    if not can(user, "sign_report"):
        raise UserVisibleError(
            "This account's role does not sign reports.",
            what_to_do="Signing keys are for radiologists.",
            code="role-does-not-sign",
        )
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise UserVisibleError(
            "This password is too weak for a signing key.", what_to_do=" ".join(error.messages), code="weak-password"
        ) from None
    authority = _required_authority()
    made = make_signer(
        _open(authority, _AUTHORITY_CONTEXT),
        user.display_name,
        str(settings.ONCOFLOW_HOSPITAL_NAME),
        now(),
        unit="Radiology",
    )
    locked = made.encrypted_key_pem(password)
    with transaction.atomic():
        existing = PersonalKey.objects.select_for_update().filter(user=user, revoked_at__isnull=True).first()
        if existing is not None:
            if not replace:
                raise UserVisibleError(
                    "This person has a signing key already.",
                    what_to_do="Ask for it to be replaced; the old one is then revoked.",
                    code="key-exists",
                )
            _revoke(existing, by)
        row = PersonalKey.objects.create(
            user=user,
            authority=authority,
            common_name=_common_name(made.certificate),
            certificate=made.certificate_pem(),
            encrypted_private_key=locked,
        )
        record(
            "signing.key_issued", action="C", resource=f"personal-key:{row.pk}", actor=by, detail={"user": str(user.pk)}
        )
    return row


def _revoke(row: PersonalKey, by: Actor | None) -> None:
    row.revoked_at = now()
    row.save(update_fields=["revoked_at"])
    record(
        "signing.key_revoked",
        action="U",
        resource=f"personal-key:{row.pk}",
        actor=by,
        detail={"user": str(row.user_id)},
    )


def revoke_personal_key(user: Any, *, by: Actor | None = None) -> bool:
    """Revoke the person's key; True when there was one."""
    with transaction.atomic():
        row = PersonalKey.objects.select_for_update().filter(user=user, revoked_at__isnull=True).first()
        if row is not None:
            _revoke(row, by)
    return row is not None


def unlock(row: PersonalKey, password: str) -> KeyAndCertificate:
    """Open a personal key. Raises `WrongPassword`; `UserVisibleError` when its certificate has expired."""
    certificate = x509.load_pem_x509_certificate(row.certificate.encode("ascii"))
    opened = KeyAndCertificate(load_encrypted_key(row.encrypted_private_key, password), certificate)
    _require_valid(certificate, "Your signing certificate has expired.", "Ask for a new signing key.")
    return opened
