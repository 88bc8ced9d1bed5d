"""Reading and writing ER7, the pipe notation of HL7 v2 (HL7 v2.5.1 chapter 2, sections 2.5 to 2.8).

Bytes come in; MSH-18 is read from the ASCII prefix, then the whole is decoded. Fields are split when asked for, and
escape sequences are resolved last, on the smallest part, so that an escaped delimiter never splits anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

__all__ = [
    "STANDARD",
    "Delimiters",
    "Er7Error",
    "Er7Message",
    "Segment",
    "batch_messages",
    "charset_codec",
    "declared_charset",
    "escape",
    "parse",
    "read_header",
    "standard",
    "unescape",
    "without_preamble",
]

MAX_SEGMENTS = 20_000
MAX_FIELDS = 400
MAX_REPETITIONS = 1_000

# HL7 table 0211. UTF-16 and UTF-32 are missing on purpose: MLLP cannot carry them.
_CODECS = {
    "": "",
    "ASCII": "",
    "US-ASCII": "",
    "ISO IR6": "",
    "ANSI": "cp1252",
    "CP1252": "cp1252",
    "WINDOWS-1252": "cp1252",
    "ISO IR14": "iso2022_jp",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE": "utf-8",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
} | {f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)}


_LATIN = re.compile(r"(?:ISO[ _-]?)?8859[ /_-]?(\d{1,2})\Z")

# Where MSH-2 does not declare a delimiter: a character that no message contains (MLLP cannot carry it as text).
_ABSENT = "\0"
_BOM = b"\xef\xbb\xbf"


class Er7Error(Exception):
    """The bytes are not a readable HL7 v2 message.

    :param condition: code of HL7 table 0357, e.g. ``"100"``.
    :param location: ERR-2 (ERL), e.g. ``"MSH^1^18"``.
    """

    def __init__(self, message: str, *, condition: str = "100", location: str = "MSH^1") -> None:
        super().__init__(message)
        self.condition = condition
        self.location = location


@dataclass(frozen=True)
class Delimiters:
    """MSH-1 and MSH-2."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    truncation: str = ""

    @property
    def msh2(self) -> str:
        """MSH-2 as written."""
        return f"{self.component}{self.repetition}{self.escape}{self.subcomponent}{self.truncation}".replace(
            _ABSENT, ""
        )


STANDARD = Delimiters()


def charset_codec(name: str) -> str:
    """Python codec of an HL7 table 0211 name, or of what senders write for one (``ISO-8859-1``, ``WINDOWS-1252``, ``ANSI``);
    ``""`` when the name declares nothing beyond ASCII.

    Raises `Er7Error` (103, table value not found) for a set this service does not read.
    """
    wanted = " ".join(name.upper().split())
    latin = _LATIN.match(wanted)
    if latin:
        wanted = f"8859/{int(latin.group(1))}"
    try:
        return _CODECS[wanted]
    except KeyError:
        raise Er7Error("MSH-18 names an unsupported character set.", condition="103", location="MSH^1^18") from None


def unescape(text: str, delimiters: Delimiters = STANDARD, codec: str = "") -> str:
    r"""Resolve escape sequences of one smallest part (section 2.7).

    ``\F\ \S\ \T\ \R\ \E\ \P\`` give the delimiters, ``\Xhh..\`` bytes in the message's character set, ``\.br\`` and
    ``\.sp\`` line ends; ``\H\`` and ``\N\`` (highlighting) vanish; everything unknown stays as it is.
    """
    mark = delimiters.escape
    if not mark or mark not in text:
        return text
    plain = {
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent.replace(_ABSENT, "&"),
        "R": delimiters.repetition,
        "E": delimiters.escape,
        "P": delimiters.truncation or "#",
        "H": "",
        "N": "",
        ".br": "\n",
        ".sp": "\n",
    }

    def resolve(match: re.Match[str]) -> str:
        body = match.group(1)
        if body in plain:
            return plain[body]
        if body[:1] == "X" and len(body) % 2 == 1:
            try:
                return bytes.fromhex(body[1:]).decode(codec or "utf-8")
            except (ValueError, UnicodeDecodeError):
                return match.group(0)
        if body[:3] == ".sp":
            count = body[3:].strip().lstrip("+")
            return "\n" * min(int(count), 50) if count.isascii() and count.isdigit() else match.group(0)
        return match.group(0)

    quoted = re.escape(mark)
    return re.sub(f"{quoted}([^{quoted}]{{0,512}}){quoted}", resolve, text)


_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}


def escape(text: str) -> str:
    r"""Text of ours in the standard delimiters; line ends become ``\.br\``, other control characters vanish."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    parts: list[str] = []
    for character in text:
        if character in _ESCAPES:
            parts.append(_ESCAPES[character])
        elif character == "\n":
            parts.append("\\.br\\")
        elif character == "\t":
            parts.append(" ")
        elif ord(character) >= 32 and ord(character) != 127:
            parts.append(character)
    return "".join(parts)


def standard(text: str, delimiters: Delimiters) -> str:
    """A field as received, in the standard delimiters; unchanged where the sender used those."""
    if (delimiters.component, delimiters.repetition, delimiters.escape, delimiters.subcomponent) == (
        "^",
        "~",
        "\\",
        "&",
    ):
        return text
    return "~".join(
        "^".join(
            "&".join(escape(unescape(part, delimiters)) for part in component.split(delimiters.subcomponent))
            for component in repetition.split(delimiters.component)
        )
        for repetition in text.split(delimiters.repetition)
    )


@dataclass(frozen=True)
class Segment:
    """One segment. Field numbers are the standard's: in MSH, MSH-1 is the field separator itself."""

    line: str
    delimiters: Delimiters = field(default=STANDARD, repr=False)
    codec: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Segment id, three characters."""
        return self.line[:3]

    @cached_property
    def _fields(self) -> list[str]:
        fields = self.line.split(self.delimiters.field, MAX_FIELDS)
        if self.name == "MSH":
            fields.insert(1, self.delimiters.field)
        return fields

    def field(self, number: int) -> str:
        """The field as received: repetitions, components and escapes untouched. ``""`` when absent."""
        return self._fields[number] if number < len(self._fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """The field's repetitions as received; an empty field has none."""
        text = self.field(number)
        return text.split(self.delimiters.repetition, MAX_REPETITIONS) if text else []

    def get(self, number: int, component: int = 1, subcomponent: int = 1, repetition: int = 0) -> str:
        """One smallest part, escapes resolved and outer blanks removed; ``""`` when absent."""
        if self.name == "MSH" and number in (1, 2):
            return self.field(number)
        repetitions = self.repetitions(number)
        if repetition >= len(repetitions):
            return ""
        return self.part(repetitions[repetition], component, subcomponent)

    def part(self, repetition: str, component: int = 1, subcomponent: int = 1) -> str:
        """One smallest part of a repetition that `repetitions` gave."""
        components = repetition.split(self.delimiters.component)
        if component > len(components):
            return ""
        parts = components[component - 1].split(self.delimiters.subcomponent)
        if subcomponent > len(parts):
            return ""
        return unescape(parts[subcomponent - 1], self.delimiters, self.codec).strip()

    def text(self, number: int) -> str:
        """The whole field as text, repetitions as lines: for FT, TX and free text."""
        return "\n".join(unescape(part, self.delimiters, self.codec) for part in self.repetitions(number))


@dataclass(frozen=True)
class Er7Message:
    """A decoded message."""

    segments: tuple[Segment, ...]
    delimiters: Delimiters
    codec: str
    charset: str

    @property
    def msh(self) -> Segment:
        """The header."""
        return self.segments[0]

    def first(self, name: str) -> Segment | None:
        """The first segment called ``name``."""
        return next((segment for segment in self.segments if segment.name == name), None)

    def all(self, name: str) -> Iterator[Segment]:
        """Every segment called ``name``, in order."""
        return (segment for segment in self.segments if segment.name == name)

    @property
    def type(self) -> tuple[str, str]:
        """MSH-9.1 and MSH-9.2."""
        return self.msh.get(9, 1), self.msh.get(9, 2)


def _delimiters(data: bytes) -> Delimiters:
    if data[:3] != b"MSH":
        raise Er7Error("The message does not begin with MSH.")
    head = data[3:64]
    if len(head) < 5 or any(byte >= 0x7F or byte <= 0x20 for byte in head[:4]):
        raise Er7Error("MSH-1 and MSH-2 are not readable.", location="MSH^1^2")
    separator = chr(head[0])
    msh2 = head[1:].split(head[:1])[0].decode("ascii", "replace")
    if separator.isalnum() or len(msh2) < 2 or len(msh2) > 5:
        raise Er7Error(
            "MSH-2 must hold the component, repetition, escape and subcomponent characters.", location="MSH^1^2"
        )
    if len({separator, *msh2}) != len(msh2) + 1 or any(character.isalnum() for character in msh2):
        raise Er7Error("The characters of MSH-1 and MSH-2 are not different from each other.", location="MSH^1^2")
    # Early versions declare no subcomponent character, and some senders no escape character: then there is none.
    escape_character = msh2[2] if len(msh2) > 2 else ""
    return Delimiters(separator, msh2[0], msh2[1], escape_character, msh2[3:4] or _ABSENT, msh2[4:])


def without_preamble(data: bytes) -> bytes:
    """``data`` without the byte order mark and the blank lines that files and editors put before MSH."""
    return data.lstrip().removeprefix(_BOM).lstrip() if data[:3] != b"MSH" else data


_BATCH_SEGMENT = re.compile(rb"[FB][HT]S")
MAX_BATCH = 1_000


def batch_messages(data: bytes) -> list[bytes] | None:
    """The messages of a batch file (FHS, BHS, ..., BTS, FTS; HL7 v2.5.1 section 2.10.3); None where ``data`` is no batch.

    Raises `Er7Error` for more than `MAX_BATCH` messages.
    """
    data = without_preamble(data)
    if data[:3] not in (b"FHS", b"BHS"):
        return None
    messages: list[list[bytes]] = []
    for line in re.split(rb"\r\n|\r|\n", data):
        if line.startswith(b"MSH"):
            messages.append([line])
        elif messages and line.strip() and not _BATCH_SEGMENT.match(line[:3]):
            messages[-1].append(line)
    if len(messages) > MAX_BATCH:
        raise Er7Error("The batch has too many messages.", condition="104", location="BHS^1")
    return [b"\r".join(lines) + b"\r" for lines in messages]


_LINE_END = re.compile(r"(\r\n|\r|\n)")


def _lines(text: str, separator: str) -> list[str]:
    """The segments' lines. CR, LF and CR LF end one, even mixed; a lone LF in a message that ends segments with CR, and before
    what is no segment, is a line end inside a text."""
    parts = _LINE_END.split(text)
    lines = [parts[0]]
    with_cr = "\r" in text
    for end, line in zip(parts[1::2], parts[2::2], strict=True):
        if not line.strip():
            continue
        segment = re.match(r"[A-Z][A-Z0-9]{2}", line) and line[3:4] in ("", separator)
        # Wrapped base64 and free text: a line end inside OBX-5 or NTE-3.
        in_text = (end == "\n" and with_cr) or lines[-1][:3] in ("OBX", "NTE")
        if in_text and not segment:
            lines[-1] += f"\n{line}"
        else:
            lines.append(line)
    return lines


def read_header(data: bytes) -> Segment:
    """The MSH segment alone, read tolerantly (Latin-1): enough to answer to. Raises `Er7Error` when there is none."""
    data = without_preamble(data)
    delimiters = _delimiters(data)
    line = re.split(rb"[\r\n]", data[:4096], maxsplit=1)[0]
    return Segment(line.decode("latin-1"), delimiters)


def declared_charset(msh: Segment) -> str:
    """The character set of MSH-18: of several, the first that has more than ASCII. ``""`` where none is named."""
    named = [msh.part(one).strip() for one in msh.repetitions(18)]
    try:
        return next((one for one in named if charset_codec(one)), named[0] if named else "")
    except Er7Error:
        return next(filter(None, named), "")


def _decode(data: bytes, declared: str, peer_charset: str) -> tuple[str, str]:
    codec = charset_codec(declared)
    if codec:
        try:
            return data.decode(codec), codec
        except UnicodeDecodeError:
            # A name decoded by guesswork would end in a patient record: the sender said what it is, and it is not that.
            raise Er7Error(
                "The text is not in the character set that MSH-18 names.", condition="102", location="MSH^1^18"
            ) from None
    candidates = [charset_codec(peer_charset)] if peer_charset else []
    for candidate in (*filter(None, candidates), "utf-8", "cp1252"):
        try:
            return data.decode(candidate), candidate
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1"), "latin-1"


def parse(data: bytes, peer_charset: str = "") -> Er7Message:
    """Split the bytes of one frame.

    Segments end with CR (section 2.5); LF and CR LF are tolerated, mixed too; empty lines, and a byte order mark or blanks before
    MSH, are passed over.

    :param data: the bytes between the MLLP frame characters.
    :param peer_charset: table 0211 name for where MSH-18 is empty or ASCII; then UTF-8, then Windows-1252 are tried.
    Raises `Er7Error`.
    """
    data = without_preamble(data)
    header = read_header(data)
    delimiters = header.delimiters
    declared = declared_charset(header)
    if data.count(b"\r") + data.count(b"\n") > 2 * MAX_SEGMENTS:
        raise Er7Error("The message has too many segments.", condition="104")
    text, codec = _decode(data, declared, peer_charset)
    segments: list[Segment] = []
    for line in _lines(text, delimiters.field):
        name = line[:3]
        if name == "MSH" and segments:
            raise Er7Error("There are two messages in one frame.", location=f"MSH^{len(segments) + 1}")
        if len(name) < 3 or not name.isascii() or not name.isalnum() or (len(line) > 3 and line[3] != delimiters.field):
            raise Er7Error(
                "A line is not a segment.", location=f"{segments[-1].name if segments else 'MSH'}^{len(segments)}"
            )
        segments.append(Segment(line, delimiters, codec))
    if len(segments) > MAX_SEGMENTS:
        raise Er7Error("The message has too many segments.", condition="104")
    return Er7Message(tuple(segments), delimiters, codec, declared)
