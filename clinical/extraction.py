"""Text out of documents: plain text, HTML and XHTML, PDF. Anything else is unreadable and says so.

What kind a document is, is decided here; it is read in a process of its own, under limits (`extraction_child`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from email.message import Message
from pathlib import Path

from oncoflow_site.foundation.errors import EngineError

__all__ = ["UnreadableError", "extract"]

WALL_SECONDS = 60
_CHILD = Path(__file__).with_name("extraction_child.py")
_MAX_CONTENT_TYPE = 200

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
    message["Content-Type"] = value[:_MAX_CONTENT_TYPE].replace("\r", " ").replace("\n", " ")
    charset = message.get_param("charset")
    return message.get_content_type(), charset if isinstance(charset, str) else ""


def _kind(content: bytes, mime_type: str) -> str:
    """How to read it: "pdf", "html" or "text". :raises UnreadableError: a kind that is not read."""
    if mime_type == "application/pdf" or content[:5] == b"%PDF-":
        if b"%PDF-" not in content[:1024]:
            raise UnreadableError("The document is called a PDF, but is none.")
        return "pdf"
    if mime_type in _HTML_TYPES:
        return "html"
    if mime_type in _KINDS or content[:5] == rb"{\rtf":
        raise UnreadableError(
            f"{_KINDS.get(mime_type, 'Rich Text')} documents cannot be read; send PDF, HTML or plain text."
        )
    if mime_type == "text/plain":
        return "text"
    raise UnreadableError("Documents of this kind cannot be read; send PDF, HTML or plain text.")


def extract(content: bytes, content_type: str) -> str:
    """The text of a document, line ends ``\\n``, ready to be stored as UTF-8.

    Read by a child process with limits on processor time, memory and wall clock for each document: no document holds
    this process, or its interpreter's lock, for longer than it takes to hand the bytes over.

    :param content_type: MIME type with optional charset, as the sender gave it.
    :raises UnreadableError: a kind that is not read, a damaged or hostile file, or no text in it (a scan).
    """
    mime_type, charset = _content_type(content_type)
    kind = _kind(content, mime_type)
    try:
        child = subprocess.run(
            [sys.executable, "-I", str(_CHILD)],
            input=json.dumps({"kind": kind, "charset": charset}).encode() + b"\n" + content,
            capture_output=True,
            timeout=WALL_SECONDS,
            check=False,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        raise UnreadableError("Reading the document took too long.") from None
    if child.returncode != 0:
        raise UnreadableError("Reading the document took too much time or memory.")
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        raise UnreadableError("The document is damaged and cannot be read.") from None
    if "refused" in answer:
        raise UnreadableError(str(answer["refused"]))
    return str(answer["text"])
