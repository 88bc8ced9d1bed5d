"""Keys, signatures, verification: any change of any byte is refused, and so is any other authority."""

from __future__ import annotations

import io
import random
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from pyhanko.pdf_utils.generic import NameObject
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from reportlab.pdfgen.canvas import Canvas

from clinical.models import User
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from reports.models import CertificateAuthority, PersonalKey, SealKey
from reports.signing.certificates import WrongPassword, load_encrypted_key, make_authority, make_signer
from reports.signing.keyring import init_signing, issue_personal_key, open_seal, unlock
from reports.signing.pades import SignatureBox, sign_pdf
from reports.signing.verify import verify

PASSWORD = "correct horse battery staple"


def plain_pdf() -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out)
    canvas.drawString(100, 700, "Report")
    canvas.showPage()
    canvas.save()
    return out.getvalue()


AUTHORITY = make_authority("Test authority", "Hospital", now())
SIGNER = make_signer(AUTHORITY, "Dr Zoë Müller", "Hospital", now(), unit="Radiology")
TRUST = AUTHORITY.certificate_pem()


def signed(signer=SIGNER) -> bytes:
    box = SignatureBox(0, (50, 50, 250, 120))
    return sign_pdf(plain_pdf(), signer, box=box, name="Dr Zoë Müller", reason="I have reviewed", location="Hospital")


def test_round_trip() -> None:
    result = verify(signed(), TRUST)
    assert result.valid, result.problems
    assert (result.intact, result.trusted, result.covers_whole_file, result.no_changes_allowed, result.pades) == (
        True,
    ) * 5
    assert (result.signer, result.signer_unit, result.reason) == ("Dr Zoë Müller", "Radiology", "I have reviewed")
    assert result.signed_at is not None


def test_flipped_bytes_are_refused() -> None:
    """A sample over the whole file and, more closely, the signature container that the digest leaves out."""
    pdf = signed()
    start = pdf.index(b"/Contents <") + len(b"/Contents <")
    generator = random.Random(7)
    places = set(generator.sample(range(len(pdf)), 15)) | {start + 2600, 0, len(pdf) - 1}
    flips = [(place, 0x01) for place in sorted(places)]
    # 0x20 turns a hexadecimal letter into the same digit in the other case.
    flips += [(place, flip) for place in generator.sample(range(start, start + 1700), 25) for flip in (0x01, 0x20)]
    for place, flip in flips:
        bad = bytearray(pdf)
        bad[place] ^= flip
        assert not verify(bytes(bad), TRUST).valid, (place, flip)


def test_another_authority_of_the_same_name_is_refused() -> None:
    other = make_authority("Test authority", "Hospital", now())
    result = verify(signed(), other.certificate_pem())
    assert (result.valid, result.intact, result.trusted) == (False, True, False)
    forged = make_signer(other, "Dr Zoë Müller", "Hospital", now(), unit="Radiology")
    assert not verify(signed(forged), TRUST).valid


def test_the_authority_itself_and_an_expired_certificate_do_not_sign() -> None:
    assert not verify(signed(AUTHORITY), TRUST).valid
    long_ago = now() - timedelta(days=365 * 3)
    expired = make_signer(AUTHORITY, "Dr Late", "Hospital", long_ago, unit="Radiology")
    assert not verify(signed(expired), TRUST).valid


def test_appended_bytes_and_incremental_updates_are_refused() -> None:
    pdf = signed()
    assert not verify(pdf + b"\n", TRUST).valid
    writer = IncrementalPdfFileWriter(io.BytesIO(pdf))
    writer.root["/PageMode"] = NameObject("/UseNone")
    writer.update_root()
    out = io.BytesIO()
    writer.write(out)
    assert not verify(out.getvalue(), TRUST).valid


@pytest.mark.parametrize("data", [b"", b"junk", b"%PDF-1.4\n%%EOF", plain_pdf(), b"\0" * 5000])
def test_hostile_files_are_answered_not_raised(data: bytes) -> None:
    result = verify(data, TRUST)
    assert not result.valid
    assert result.problems


def test_a_second_signature_is_refused() -> None:
    with pytest.raises(ValueError, match="signed already"):
        sign_pdf(signed(), SIGNER, box=None, name="x", reason="y", location="z")


def test_trust_that_is_no_certificate() -> None:
    with pytest.raises(ValueError, match="PEM"):
        verify(signed(), "nonsense")


def test_personal_keys_open_with_their_password_only() -> None:
    pem = SIGNER.encrypted_key_pem("pässword one two")
    assert "ENCRYPTED" in pem
    assert load_encrypted_key(pem, "pässword one two").private_numbers() == SIGNER.key.private_numbers()
    for wrong in ("", "password one two", "pässword one two "):
        with pytest.raises(WrongPassword):
            load_encrypted_key(pem, wrong)


@pytest.mark.django_db
def test_init_signing_is_idempotent_and_keeps_keys_encrypted() -> None:
    authority, seal = init_signing()
    assert init_signing() == (authority, seal)
    assert (CertificateAuthority.objects.count(), SealKey.objects.count()) == (1, 1)
    opened, _ = open_seal()
    assert opened.key_der() not in bytes(seal.private_key)
    assert verify(signed(opened), authority.certificate).valid


@pytest.mark.django_db
def test_personal_keys_of_the_keyring() -> None:
    init_signing()
    user = User.objects.create_user(username="rad", role="radiologist", first_name="Rahel", last_name="Sommer")
    with pytest.raises(UserVisibleError) as weak:
        issue_personal_key(user, "short")
    assert weak.value.code == "weak-password"
    row = issue_personal_key(user, PASSWORD)
    with pytest.raises(UserVisibleError) as exists:
        issue_personal_key(user, PASSWORD)
    assert exists.value.code == "key-exists"
    newer = issue_personal_key(user, PASSWORD, replace=True)
    row.refresh_from_db()
    assert row.revoked_at is not None
    assert PersonalKey.objects.get(user=user, revoked_at__isnull=True) == newer
    assert unlock(newer, PASSWORD).certificate
    clinician = User.objects.create_user(username="clin", role="clinician")
    with pytest.raises(UserVisibleError) as role:
        issue_personal_key(clinician, PASSWORD)
    assert role.value.code == "role-does-not-sign"


@pytest.mark.django_db
def test_commands(tmp_path, monkeypatch, capsys) -> None:
    ca = tmp_path / "ca.pem"
    call_command("init_signing", export=str(ca))
    User.objects.create_user(username="rad", role="radiologist", first_name="Rahel", last_name="Sommer")
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + "\n"))
    call_command("issue_personal_key", "rad", "--password-stdin")
    with pytest.raises(CommandError, match="no account"):
        call_command("issue_personal_key", "nobody", "--password-stdin")
    opened, _ = open_seal()
    good, bad = tmp_path / "good.pdf", tmp_path / "bad.pdf"
    good.write_bytes(signed(opened))
    bad.write_bytes(signed(opened)[:-1] + b"x")
    call_command("verify_pdf", str(good), ca=str(ca))
    assert "VALID: signed by" in capsys.readouterr().out
    call_command("verify_pdf", str(good))
    for file, trust in ((bad, ca), (tmp_path / "absent.pdf", ca), (good, bad)):
        with pytest.raises(CommandError):
            call_command("verify_pdf", str(file), ca=str(trust))
