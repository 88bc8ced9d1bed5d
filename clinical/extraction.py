"""Text out of documents: plain text, HTML and XHTML, PDF. Anything else is unreadable and says so."""

from __future__ import annotations

import codecs
import json
import re
import subprocess
import sys
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from oncoflow_site.foundation.errors import EngineError

__all__ = ["MAX_TEXT_CHARACTERS", "UnreadableError", "extract"]

MAX_TEXT_CHARACTERS = 4_000_000
PDF_WALL_SECONDS = 60
_PDF_CHILD = Path(__file__).with_name("pdf_child.py")

_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/xhtml"})
_KINDS = {
    "text/rtf": "Rich Text",
    "application/rtf": "Rich Text",
    "application/msword": "Word",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "Word",
    "text/xml": "XML",
    "application/xml": "XML",
}


class UnreadableError(EngineError):
    """No text can be had from a document. The message is for people and quotes nothing of the document."""


def _content_type(value: str) -> tuple[str, str]:
    """MIME type in lower case and charset, from a Content-Type value."""
    message = Message()
    message["Content-Type"] = value
    charset = message.get_param("charset")
    return message.get_content_type(), charset if isinstance(charset, str) else ""


def _decoded(content: bytes, charset: str) -> str:
    """Text of ``content``: by byte order mark, else as declared, else UTF-8, else Windows-1252.

    :raises UnreadableError: binary content under a text type.
    """
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            candidates = [name]
            break
    else:
        candidates = [charset, "utf-8", "cp1252"]
    for name in candidates:
        try:
            info = codecs.lookup(name) if name else None
            # Python has codecs that are no charsets (zlib, rot13); content must not choose one of those.
            if info is None or not info._is_text_encoding:
                continue
            text = content.decode(info.name)
        except (LookupError, UnicodeDecodeError, ValueError):
            continue
        if _looks_binary(text):
            break
        return text
    raise UnreadableError("The document is called text, but its bytes are not text in a known character set.")


def _looks_binary(text: str) -> bool:
    head = text[:4000]
    odd = sum(1 for char in head if ord(char) < 32 and char not in "\t\n\r\f\v\x1b")
    return odd > max(2, len(head) // 50)


def _tidy(text: str) -> str:
    """Unix line ends, no NUL and other controls, no lone surrogates, no runs of blank lines; what will be stored."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").replace("\v", "\n")
    text = re.sub(r"[\x00-\x08\x0e-\x1f\x7f]", "", text)
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


_BLOCK_TAGS = """address article aside blockquote body br caption dd div dl dt fieldset figure footer form h1 h2 h3 h4
h5 h6 header hr html li main nav ol p pre section table tbody tfoot thead tr ul"""
_BLOCKS = frozenset(re.findall(r"\w+", _BLOCK_TAGS))
_SILENT = frozenset({"head", "noscript", "script", "style", "template", "title"})


class _Stripper(HTMLParser):
    """Collects what a reader would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent += 1
        elif tag in _BLOCKS:
            self.parts.append("\n")
            self._pre += tag == "pre"
        elif tag in ("td", "th"):
            self.parts.append("\t")
        if tag == "body":
            self._silent = 0  # an unclosed <title> or <head> must not swallow the document

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in _BLOCKS:
            self.parts.append("\n")
            if tag == "pre":
                self._pre = max(0, self._pre - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if not self._pre:
            data = re.sub(r"\s+", " ", data)
            if self.parts and self.parts[-1][-1:].isspace():
                data = data.lstrip(" ")
        self.parts.append(data)


def _html(content: bytes, charset: str) -> str:
    if not charset:
        declared = re.search(rb"""(?:charset|encoding)\s*=\s*["']?([A-Za-z0-9._-]{2,40})""", content[:2048])
        charset = declared.group(1).decode("ascii") if declared else ""
    stripper = _Stripper()
    stripper.feed(_decoded(content, charset))
    stripper.close()
    text = "".join(stripper.parts)
    return re.sub(r"\n[ \t]+", "\n", re.sub(r"[ \t]*\n[ \t]*\n\s*", "\n\n", text))


def _pdf(content: bytes) -> str:
    if b"%PDF-" not in content[:1024]:
        raise UnreadableError("The document is called a PDF, but is none.")
    try:
        child = subprocess.run(
            [sys.executable, "-I", str(_PDF_CHILD)],
            input=content,
            capture_output=True,
            timeout=PDF_WALL_SECONDS,
            check=False,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        raise UnreadableError("Reading the PDF took too long.") from None
    if child.returncode != 0:
        raise UnreadableError("Reading the PDF took too much time or memory.")
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        raise UnreadableError("The PDF is damaged and cannot be read.") from None
    if "refused" in answer:
        raise UnreadableError(str(answer["refused"]))
    return "\n\n".join(answer["pages"])


def extract(content: bytes, content_type: str) -> str:
    """The text of a document, line ends ``\\n``, ready to be stored as UTF-8.

    :param content_type: MIME type with optional charset, as the sender gave it.
    :raises UnreadableError: a kind that is not read, a damaged or hostile file, or no text in it (a scan).
    """
    kind, charset = _content_type(content_type)
    if kind == "application/pdf" or content[:5] == b"%PDF-":
        text = _pdf(content)
    elif kind in _HTML_TYPES:
        text = _html(content, charset)
    elif kind in _KINDS or content[:5] == rb"{\rtf":
        raise UnreadableError(
            f"{_KINDS.get(kind, 'Rich Text')} documents cannot be read; send PDF, HTML or plain text."
        )
    elif kind == "text/plain":
        text = _decoded(content, charset)
    else:
        raise UnreadableError("Documents of this kind cannot be read; send PDF, HTML or plain text.")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise UnreadableError("The document holds more text than can be read.")
    text = _tidy(text)
    if not re.search(r"\w", text):
        raise UnreadableError("There is no text in the document; it may be a scan.")
    return text
