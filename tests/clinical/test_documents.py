"""Documents: kept once, read once; hostile ones become unreadable, visibly."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from audit.models import AuditRow
from clinical import extraction
from clinical.documents import MAX_DOCUMENT_BYTES, add_document, read_original, read_text
from clinical.extraction import UnreadableError, extract
from clinical.models import ClinicalDocument
from clinical.models.documents import DOCUMENT_MACHINE
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.jobs import enqueue, run_job, run_pending
from oncoflow_site.foundation.models import Event, Job
from tests.factories.pdf_files import bomb, pdf


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        ("Glioblastoma, Grad 4, größer".encode(), "text/plain", "Glioblastoma, Grad 4, größer\n"),
        ("größer".encode("latin-1"), "text/plain; charset=iso-8859-1", "größer\n"),
        ("größer – 5".encode("cp1252"), "text/plain", "größer – 5\n"),
        ("größer".encode("utf-16"), "text/plain", "größer\n"),
        (b"\xef\xbb\xbfa b", "text/plain; charset=us-ascii", "a b\n"),
        ("größer".encode(), "text/plain; charset=zlib_codec", "größer\n"),
        ("größer".encode(), "text/plain; charset=no-such-set", "größer\n"),
        (b"one\r\ntwo\rthree\x00\x01\n\n\n\nfour", "text/plain", "one\ntwo\nthree\n\nfour\n"),
        (
            b"<html><head><title>T</title><style>p{}</style></head><body><p>Resection &amp; chemo</p><script>x()</script>"
            b"<ul><li>one</li><li>two</li></ul></body></html>",
            "text/html",
            "Resection & chemo\n\none\n\ntwo\n",
        ),
        (
            b'<?xml version="1.0" encoding="iso-8859-1"?><html xmlns="http://www.w3.org/1999/xhtml"><body>gr\xf6\xdfer<br/>x'
            b"</body></html>",
            "application/xhtml+xml",
            "größer\nx\n",
        ),
        (b"<title>never closed <body>still here", "text/html", "still here\n"),
        (b"<p>a <!-- hidden --> b<td>c", "text/html", "a b\tc\n"),
        (
            b'<p>size < 5 mm, <b title="a > b">stable</b><p class=it\'s>next</p><!-- never closed',
            "text/html",
            "size < 5 mm, stable\nnext\n",
        ),
        (
            b"<p>&#" + b"9" * 5000 + b"; &amp; &lt;b&gt; <![CDATA[a & b]]></p><SCRIPT>if (a<b) '</p>'</Script >z",
            "text/html",
            "\ufffd & <b> a & b\nz\n",
        ),
        (b"<pre>a\n   b</pre><p>c</", "text/html", "a\nb\n\nc\n"),
    ],
)
def test_text_comes_out(content: bytes, content_type: str, expected: str) -> None:
    assert extract(content, content_type) == expected


def test_a_pdf_is_read_page_by_page() -> None:
    text = extract(pdf("Histology: glioblastoma", "IDH wildtype"), "application/pdf")
    assert text == "Histology: glioblastoma\n\nIDH wildtype\n"
    assert extract(pdf("called text"), "text/plain") == "called text\n"


@pytest.mark.parametrize(
    ("content", "content_type", "why"),
    [
        (b"%PDF-1.7\n" + b"\x00garbage" * 50, "application/pdf", "damaged"),
        (b"no pdf at all", "application/pdf", "is none"),
        (pdf("secret", password="x"), "application/pdf", "password"),
        (pdf(""), "application/pdf", "scan"),
        (rb"{\rtf1 hello}", "application/rtf", "Rich Text"),
        (rb"{\rtf1 hello}", "text/plain", "Rich Text"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, "image/png", "kind"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07" * 20, "text/plain", "not text"),
        (b"   \n\t ", "text/plain", "no text"),
        (b"<html><body><script>1</script></body></html>", "text/html", "no text"),
    ],
)
def test_what_cannot_be_read_says_why_without_quoting(content: bytes, content_type: str, why: str) -> None:
    with pytest.raises(UnreadableError, match=why) as caught:
        extract(content, content_type)
    assert "hello" not in str(caught.value)


def test_too_many_pages_are_refused() -> None:
    with pytest.raises(UnreadableError, match="500 pages"):
        extract(pdf(*["x"] * 501), "application/pdf")


def test_a_pdf_that_asks_for_endless_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "WALL_SECONDS", 3)
    with pytest.raises(UnreadableError):
        extract(bomb(), "application/pdf")


LONG = 280_000


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        ("a" + " " * LONG + "b", "text/plain", f"a{' ' * LONG}b\n"),
        ("a" + "\t" * LONG + "b\n" + " " * LONG + "\nc", "text/plain", f"a{chr(9) * LONG}b\n\nc\n"),
        ("a" + " \n" * LONG + "b", "text/plain", "a\n\nb\n"),
        ("<p>a</p>" + "<!--" * 100_000, "text/html", "a\n"),
        ("<p>a</p>" + "<!" * 100_000, "text/html", "a\n"),
        ("<p>a</p>" + "</" * 100_000, "text/html", "a\n"),
        ("<p>a</p>" + "<b x='" * 100_000, "text/html", "a\n"),
        ("<p>a</p>" + "<?" * 100_000, "text/html", "a\n"),
        ("<p>a</p>" + "<![CDATA[" * 100_000, "text/html", "a\n" + "<![CDATA[" * 99_999 + "\n"),
        ("<pre>a" + " " * LONG + "b</pre>", "text/html", f"a{' ' * LONG}b\n"),
        ("<pre>a" + "\n \n" * LONG + "b</pre>", "text/html", "a\n\nb\n"),
        ("<p>a" + "<script>" * 100_000, "text/html", "a\n"),
        ("<p>a" + "<" * LONG, "text/html", "a" + "<" * LONG + "\n"),
        ("<p>a" + "<i>" * LONG, "text/html", "a\n"),
    ],
    ids=range(14),
)
def test_what_was_read_in_the_square_of_its_length_is_read(content: str, content_type: str, expected: str) -> None:
    """Read at all means read within the child's limit of processor time, which such documents passed by far."""
    assert extract(content.encode(), content_type) == expected


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", "application/pdf"])
def test_every_kind_is_read_in_the_limited_child(content_type: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    greedy = tmp_path / "greedy.py"
    source = Path(extraction._CHILD).read_text(encoding="utf-8")
    reading = "def read_text(content: bytes, kind: str, charset: str) -> str:\n"
    assert reading in source
    content = pdf("text") if content_type == "application/pdf" else b"text"
    for body, why in (
        ("    return str(len(bytearray(1 << 31)))\n", "memory"),
        ("    while True: pass\n", "too much time"),
    ):
        greedy.write_text(source.replace(reading, reading + body).replace("CPU_SECONDS = 30", "CPU_SECONDS = 1"))
        monkeypatch.setattr(extraction, "_CHILD", greedy)
        with pytest.raises(UnreadableError, match=why):
            extract(content, content_type)


def test_a_content_type_of_any_form_is_refused_or_read() -> None:
    for content_type in ("text/plain; charset=\x00", "text/plain;" + ";a=b" * 100_000, "text/plain\r\nX: y", "\x00"):
        try:
            assert extract(b"stable", content_type) == "stable\n"
        except UnreadableError:
            pass


@pytest.fixture
def patient(make_patient):
    return make_patient()


def add(patient, content: bytes = b"Glioblastoma.", **more) -> ClinicalDocument:
    fields = {"content_type": "text/plain", "type_code": "18842-5", "type_text": "Discharge summary", "source_id": "d1"}
    return add_document(patient, content=content, **{**fields, **more})


def read(document: ClinicalDocument) -> ClinicalDocument:
    run_job(enqueue("clinical.read_document", subject=f"document:{document.pk}", key=f"test:{document.pk}:{Job.objects.count()}",
                    kwargs={"document_id": str(document.pk)}).pk)  # fmt: skip
    document.refresh_from_db()
    return document


@pytest.mark.django_db
def test_a_document_whose_reading_ended_for_good_is_unreadable_until_somebody_asks_again(
    patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = add(patient)

    def broken(*arguments: object) -> str:
        raise RuntimeError("out of order")

    monkeypatch.setattr("clinical.reading.extract", broken)
    for _ in range(4):
        Job.objects.update(run_after=now())
        run_pending()
    document.refresh_from_db()
    assert Job.objects.get(kind="clinical.read_document").state == "dead"
    assert (document.state, document.state_reason) == ("unreadable", "The attempt to read it failed.")
    assert DOCUMENT_MACHINE.apply(ClinicalDocument.objects.all(), "retry") == 1


@pytest.mark.django_db
def test_a_document_is_kept_once(patient, make_patient) -> None:
    document = add(patient)
    assert add(patient).pk == document.pk
    assert add(patient, b"Other content.").pk != document.pk
    assert add(patient, source_id="d2").pk != document.pk
    assert add(make_patient()).pk != document.pk
    assert Event.objects.filter(kind="document.arrived").count() == ClinicalDocument.objects.count() == 4
    assert read_original(document) == b"Glioblastoma."


@pytest.mark.django_db
def test_reading_stores_exact_bytes_and_tells(patient) -> None:
    document = read(add(patient, "Größe 12 mm.\r\nStabil.".encode()))
    assert document.state == "read"
    data = read_text(document)
    assert data == "Größe 12 mm.\nStabil.\n".encode()
    assert document.text_sha256 == hashlib.sha256(data).hexdigest()
    assert Event.objects.filter(kind="document.read", subject=f"document:{document.pk}").count() == 1
    text = document.text_id
    assert read(document).text_id == text
    assert Event.objects.filter(kind="document.read").count() == 1


@pytest.mark.django_db
def test_an_unreadable_document_stays_visible_and_is_told_of_nowhere(patient) -> None:
    document = read(add(patient, rb"{\rtf1 x}", content_type="application/rtf"))
    assert (document.state, document.text) == ("unreadable", None)
    assert "Rich Text" in document.state_reason
    assert not Event.objects.filter(kind="document.read").exists()
    assert AuditRow.objects.get(event="document.extract").outcome == 4
    with pytest.raises(UserVisibleError, match="no readable text"):
        read_text(document)


@pytest.mark.django_db
def test_empty_and_huge_documents_are_refused(patient) -> None:
    for content, code in ((b"", "document-empty"), (b"x" * (MAX_DOCUMENT_BYTES + 1), "document-too-large")):
        with pytest.raises(UserVisibleError) as caught:
            add(patient, content)
        assert caught.value.code == code
    assert not ClinicalDocument.objects.exists()


@pytest.mark.django_db
def test_reading_logs_nothing_of_the_document(patient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    read(add(patient, b"Zwiebelsturm has a glioblastoma."))
    read(add(patient, b"%PDF-1.7 Zwiebelsturm", content_type="application/pdf"))
    assert "Zwiebelsturm" not in caplog.text
