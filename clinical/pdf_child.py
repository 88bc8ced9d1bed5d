"""Reads the text of one PDF in a process of its own: PDF on standard input, JSON on standard output.

A PDF is a program for a reader, and a hostile one can ask for endless work or memory. So this runs apart, under limits
that the operating system keeps, and knows nothing of the service: no Django, no keys, no database.
"""

from __future__ import annotations

import io
import json
import logging
import resource
import sys

CPU_SECONDS = 30
MEMORY_BYTES = 1 << 30
MAX_PAGES = 500
MAX_CHARACTERS = 4_000_000


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read_pages(data: bytes) -> dict[str, object]:
    """``{"pages": [text, ...]}`` or ``{"refused": reason}``; the reason never quotes the document."""
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            return {"refused": "The PDF is protected by a password."}
        count = len(reader.pages)
        if count > MAX_PAGES:
            return {"refused": f"The PDF has more than {MAX_PAGES} pages."}
        pages: list[str] = []
        size = 0
        for page in reader.pages:
            text = page.extract_text() or ""
            size += len(text)
            if size > MAX_CHARACTERS:
                return {"refused": "The PDF holds more text than can be read."}
            pages.append(text)
    except (MemoryError, RecursionError):
        return {"refused": "Reading the PDF needs too much memory."}
    except Exception:  # whatever a hostile file provokes in the reader is a refusal, and must not quote the file
        return {"refused": "The PDF is damaged and cannot be read."}
    return {"pages": pages}


def main() -> int:
    """Entry point."""
    logging.disable(logging.CRITICAL)  # the reader's warnings quote the document
    data = sys.stdin.buffer.read()
    _limit()
    json.dump(read_pages(data), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
