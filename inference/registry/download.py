"""Fetching weights: only when an operator asks, only from the place named, and only what has the SHA-256 named.

Nothing else in the service opens a connection for weights. An archive is hashed before it is opened, a repository's files
before any is used; both end in a folder that did not exist before, or in nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

import httpx

from inference.registry.package_weights import ALLOWED, OURS
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["pull", "tree_digest"]

MOST_BYTES = 40 << 30
MOST_FILES = 5000
_CHUNK = 1 << 20


def tree_digest(folder: Path) -> str:
    """SHA-256 over a folder's files: of the lines ``<sha256>  <path>`` sorted by path, each ended by a line feed.

    The same as ``find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum``.
    """
    digest = hashlib.sha256()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(names, key=str.encode):
        with (folder / name).open("rb") as handle:
            digest.update(f"{hashlib.file_digest(handle, 'sha256').hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


def pull(source: str, *, sha256: str, out: Path, tell: Callable[[str], None] = lambda text: None) -> Path:
    """Fetch ``source`` into the new folder ``out``.

    :param source: ``https://...`` of a zip or tar archive, or ``hf:owner/name@revision``.
    :param sha256: of the archive's bytes; of a repository: `tree_digest` of the files that are kept.
    :raises UserVisibleError: with a code; ``out`` is not there then.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserVisibleError(
            "The SHA-256 of what is fetched has to be given.",
            what_to_do="Take it from whoever published the weights, by another way.",
            code="no-hash",
        )
    if out.exists():
        raise UserVisibleError(f"{out} is there already.", what_to_do="Choose a new folder.", code="exists")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        made = (
            _repository(source, sha256, work, tell)
            if source.startswith("hf:")
            else _archive(source, sha256, work, tell)
        )
        os.replace(made, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def _mismatch(found: str) -> UserVisibleError:
    return UserVisibleError(
        f"What came has SHA-256 {found}, not the one given; nothing was kept.",
        what_to_do="Ask whoever published the weights.",
        code="hash",
    )


def _archive(source: str, sha256: str, work: Path, tell: Callable[[str], None]) -> Path:
    parts = urlsplit(source)
    # Plain HTTP only to this machine: the hash protects the bytes, but not what a request tells on its way.
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}):
        raise UserVisibleError("The source is an https address or hf:owner/name@revision.", code="source")
    packed = work / "archive"
    digest, size = hashlib.sha256(), 0
    try:
        with httpx.stream("GET", source, follow_redirects=True, timeout=60.0) as answer, packed.open("wb") as handle:
            answer.raise_for_status()
            for chunk in answer.iter_bytes(_CHUNK):
                size += len(chunk)
                if size > MOST_BYTES:
                    raise UserVisibleError(f"It is larger than {MOST_BYTES >> 30} GiB.", code="too-large")
                digest.update(chunk)
                handle.write(chunk)
    except httpx.HTTPError as error:
        raise UserVisibleError(f"It could not be fetched: {type(error).__name__}.", code="unreachable") from error
    tell(f"{size} bytes fetched")
    if digest.hexdigest() != sha256.lower():
        raise _mismatch(digest.hexdigest())
    target = work / "files"
    target.mkdir()
    try:
        _unpack(packed, target, tell)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserVisibleError("It is no zip or tar archive that can be read.", code="archive") from error
    inside = list(target.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and not inside[0].name.startswith("fold_") else target


def _unpack(packed: Path, target: Path, tell: Callable[[str], None]) -> None:
    """Regular files of the allowed types, below ``target``; links, devices and names that lead out end it."""
    total = 0
    for number, (name, size, stream) in enumerate(_members(packed)):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or number >= MOST_FILES:
            raise UserVisibleError(f"The archive holds what it must not: {name[:80]!r}.", code="archive")
        total += size
        if total > MOST_BYTES:
            raise UserVisibleError(f"Unpacked it is larger than {MOST_BYTES >> 30} GiB.", code="too-large")
        if path.suffix not in ALLOWED or path.name in OURS - {"MODEL_CARD.md"}:
            tell(f"left out: {name}")
            continue
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as handle:
            left = size
            while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
                left -= len(chunk)
                handle.write(chunk)
            if left or stream.read(1):
                raise UserVisibleError("The archive says wrong sizes.", code="archive")


def _members(packed: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    if zipfile.is_zipfile(packed):
        with zipfile.ZipFile(packed) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise UserVisibleError("The archive holds a link.", code="archive")
                with archive.open(info) as stream:
                    yield info.filename, info.file_size, stream
        return
    with tarfile.open(packed, "r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            stream_or_none = tar.extractfile(member) if member.isreg() else None
            if stream_or_none is None:
                raise UserVisibleError("The archive holds a link or a device.", code="archive")
            with stream_or_none as stream:
                yield member.name, member.size, stream


def _repository(source: str, sha256: str, work: Path, tell: Callable[[str], None]) -> Path:
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)@([\w.-]+)", source)
    if found is None:
        raise UserVisibleError("A repository is written hf:owner/name@revision.", code="source")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    target = work / "files"
    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False  # the service itself never leaves offline mode
    try:
        snapshot_download(
            found[1],
            revision=found[2],
            local_dir=target,
            allow_patterns=[f"*{suffix}" for suffix in sorted(ALLOWED)],
            ignore_patterns=sorted(OURS - {"MODEL_CARD.md"}),
            token=os.environ.get("HF_TOKEN") or False,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            max_workers=2,
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise UserVisibleError(f"It could not be fetched: {type(error).__name__}.", code="unreachable") from error
    finally:
        constants.HF_HUB_OFFLINE = offline
    shutil.rmtree(target / ".cache", ignore_errors=True)
    tell(f"{sum(1 for path in target.rglob('*') if path.is_file())} files fetched")
    digest = tree_digest(target)
    if digest != sha256.lower():
        raise _mismatch(digest)
    return target
