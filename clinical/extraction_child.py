"""Reads the text of one document in a process of its own: a line of JSON and the document on standard input, JSON on
standard output.

A document is a program for its reader, and a hostile one can ask for endless work or memory: a PDF by its objects, HTML by
what it never closes, plain text by a pattern that tries every blank again. So all of them are read apart, under limits
that the operating system keeps, by code that knows nothing of the service: no Django, no keys, no database. Reading is
linear in the length of the document besides; the limits are for what we did not think of.
"""

from __future__ import annotations

import codecs
import html
import io
import json
import logging
import re
import resource
import sys

CPU_SECONDS = 30
MEMORY_BYTES = 1 << 30
MAX_PAGES = 500
MAX_CHARACTERS = 4_000_000


class Refused(Exception):
    """No text can be had. The message is for people and quotes nothing of the document."""


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# --- plain text -----------------------------------------------------------------------------------


def decoded(content: bytes, charset: str) -> str:
    """Text of ``content``: by byte order mark, else as declared, else UTF-8, else Windows-1252.

    :raises Refused: binary content under a text type.
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
    raise Refused("The document is called text, but its bytes are not text in a known character set.")


def _looks_binary(text: str) -> bool:
    head = text[:4000]
    odd = sum(1 for char in head if ord(char) < 32 and char not in "\t\n\r\f\v\x1b")
    return odd > max(2, len(head) // 50)


def tidy(text: str) -> str:
    """Unix line ends, no NUL and other controls, no lone surrogates, no runs of blank lines; what will be stored."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").replace("\v", "\n")
    text = re.sub(r"[\x00-\x08\x0e-\x1f\x7f]", "", text)
    text = text.encode("utf-8", "replace").decode("utf-8")
    # Line by line: as a pattern, blanks before a line end are looked at again from each of them.
    text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


# --- HTML and XHTML -------------------------------------------------------------------------------

_BLOCK_TAGS = """address article aside blockquote body br caption dd div dl dt fieldset figure footer form h1 h2 h3 h4
h5 h6 header hr html li main nav ol p pre section table tbody tfoot thead tr ul"""
_BLOCKS = frozenset(re.findall(r"\w+", _BLOCK_TAGS))
_SILENT = frozenset({"head", "noscript", "script", "style", "template", "title"})
_NAME = re.compile(r"[A-Za-z][^\s/>]*")
_END = re.compile(r"""=\s*(["'])|>""")
_RAW_TEXT = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style")}
_NUMBER = re.compile(r"&#(?:[0-9]{9,}|[xX][0-9a-fA-F]{9,});?")


class _VisibleText:
    """Collects what a reader would see."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._silent = 0
        self._pre = 0

    def start(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent += 1
        elif tag in _BLOCKS:
            self.parts.append("\n")
            self._pre += tag == "pre"
        elif tag in ("td", "th"):
            self.parts.append("\t")
        if tag == "body":
            self._silent = 0  # an unclosed <title> or <head> must not swallow the document

    def end(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in _BLOCKS:
            self.parts.append("\n")
            if tag == "pre":
                self._pre = max(0, self._pre - 1)

    def empty(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")

    def text(self, data: str) -> None:
        if self._silent or not data:
            return
        data = html.unescape(_NUMBER.sub("\ufffd", data))  # Python refuses numbers of some thousand digits
        if not self._pre:
            data = re.sub(r"\s+", " ", data)
            if self.parts and self.parts[-1][-1:].isspace():
                data = data.lstrip(" ")
        self.parts.append(data)


def _tag_end(markup: str, position: int) -> int:
    """Where the ``>`` of a tag is, past quoted attribute values; -1 where the document ends first."""
    while True:
        found = _END.search(markup, position)
        if found is None:
            return -1
        if found.group(1) is None:
            return found.start()
        position = markup.find(found.group(1), found.end()) + 1
        if position == 0:
            return -1


def visible_text(markup: str) -> str:
    """What a reader of the page would see. Each character is looked at once: what is never closed (a comment, a tag)
    ends with the document, as the HTML standard has it (13.2.5), instead of being tried anew as text."""
    seen = _VisibleText()
    position, size = 0, len(markup)
    while position < size:
        at = markup.find("<", position)
        if at < 0:
            seen.text(markup[position:])
            break
        seen.text(markup[position:at])
        if markup.startswith("<!--", at):
            close = markup.find("-->", at + 4)
            position = size if close < 0 else close + 3
            continue
        if markup.startswith("<![CDATA[", at):
            close = markup.find("]]>", at + 9)
            seen.text(markup[at + 9 : close if close >= 0 else size].replace("&", "&amp;"))
            position = size if close < 0 else close + 3
            continue
        closing = markup.startswith("</", at)
        name = _NAME.match(markup, at + 1 + closing)
        if name is None and not closing and not markup.startswith(("<!", "<?"), at):
            seen.text("<")  # "< 5 mm" is text
            position = at + 1
            continue
        end = _tag_end(markup, name.end()) if name else markup.find(">", at)
        position = size if end < 0 else end + 1
        if name is None or end < 0:
            continue
        tag = name.group().lower()
        if closing:
            seen.end(tag)
        elif markup[end - 1] == "/":
            seen.empty(tag)
        else:
            seen.start(tag)
            if tag in _RAW_TEXT:
                last = _RAW_TEXT[tag].search(markup, position)
                position = size if last is None else last.start()
    return "".join(seen.parts)


def _html(content: bytes, charset: str) -> str:
    if not charset:
        declared = re.search(rb"""(?:charset|encoding)\s*=\s*["']?([A-Za-z0-9._-]{2,40})""", content[:2048])
        charset = declared.group(1).decode("ascii") if declared else ""
    lines = [line.strip(" \t") for line in visible_text(decoded(content, charset)).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


# --- PDF ------------------------------------------------------------------------------------------


def _pdf(content: bytes) -> str:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(content), strict=False)
    if reader.is_encrypted and not reader.decrypt(""):
        raise Refused("The PDF is protected by a password.")
    if len(reader.pages) > MAX_PAGES:
        raise Refused(f"The PDF has more than {MAX_PAGES} pages.")
    pages: list[str] = []
    size = 0
    for page in reader.pages:
        pages.append(page.extract_text() or "")
        size += len(pages[-1])
        if size > MAX_CHARACTERS:
            raise Refused("The document holds more text than can be read.")
    return "\n\n".join(pages)


def read_text(content: bytes, kind: str, charset: str) -> str:
    """The text of one document.

    :param kind: "pdf", "html" or "text". :raises Refused: with a reason that does not quote the document.
    """
    if kind == "pdf":
        text = _pdf(content)
    else:
        text = _html(content, charset) if kind == "html" else decoded(content, charset)
    if len(text) > MAX_CHARACTERS:
        raise Refused("The document holds more text than can be read.")
    text = tidy(text)
    if not re.search(r"\w", text):
        raise Refused("There is no text in the document; it may be a scan.")
    return text


def main() -> int:
    """Entry point. Standard input: ``{"kind": ..., "charset": ...}``, a line end, the document. Output:
    ``{"text": ...}`` or ``{"refused": reason}``."""
    logging.disable(logging.CRITICAL)  # a reader's warnings quote the document
    asked = json.loads(sys.stdin.buffer.readline())
    content = sys.stdin.buffer.read()
    _limit()
    answer: dict[str, str]
    try:
        answer = {"text": read_text(content, str(asked["kind"]), str(asked["charset"]))}
    except Refused as refusal:
        answer = {"refused": str(refusal)}
    except (MemoryError, RecursionError):
        answer = {"refused": "Reading the document needs too much memory."}
    except Exception:  # whatever a hostile file provokes in a reader is a refusal, and must not quote the file
        answer = {"refused": f"The {'PDF' if asked['kind'] == 'pdf' else 'document'} is damaged and cannot be read."}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
