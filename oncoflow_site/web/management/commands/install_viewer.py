"""Prepare an OHIF viewer to be served at ``/viewer/``."""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

PREFIX = "/viewer/"
# Not needed to look at images, and most of the size: source maps, models for the browser, slide microscopy.
LEFT_OUT = ("*.map", "ort", "dicom-microscopy-viewer", "google.js", "sw.js", "_headers", "_redirects", "serve.json")
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_ROOTED = re.compile(r'(href|src|content)="/(?!/)')
_MANIFEST = re.compile(r'<link rel="manifest"[^>]*>')  # of an installable application, fetched without the session
_IN_STYLE = re.compile(r"url\((['\"]?)/(?!/)")
_PUBLIC_PATH = re.compile(r"(__webpack_require__\.p\s*=\s*)\"/\"")


class Command(BaseCommand):
    """Copies the files, moved from ``/`` to ``/viewer/``, with the inline scripts of the page in files of their own."""

    help = "Prepare OHIF for /viewer/: the package that `npm pack @ohif/app` writes, or the dist folder of a build."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Command line."""
        parser.add_argument("source", help="ohif-app-….tgz, or a folder with index.html")
        parser.add_argument("--to", default="", help="default: viewer in the data directory")

    def handle(self, *args: Any, **options: Any) -> None:
        """Prepare it."""
        source = Path(options["source"])
        target = Path(options["to"] or settings.ONCOFLOW_DATA_DIR / "viewer").absolute()
        with tempfile.TemporaryDirectory() as folder:
            if source.is_file():
                with tarfile.open(source) as packed:
                    packed.extractall(folder, filter="data")
                source = Path(folder) / "package" / "dist"
            if not (source / "index.html").is_file():
                raise CommandError("There is no index.html in it: not an OHIF build.")
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(target.name + ".new")
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(*LEFT_OUT))
        _move(fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.replace(target)
        self.stdout.write(f"Ready. Set ONCOFLOW_VIEWER_DIR={target}")


def _move(folder: Path) -> None:
    page = folder / "index.html"
    text = _MANIFEST.sub("", page.read_text(encoding="utf-8"))
    scripts: list[str] = []

    def outside(match: re.Match[str]) -> str:
        scripts.append(match[1].replace('PUBLIC_URL="/"', f'PUBLIC_URL="{PREFIX}"'))
        return f'<script src="/inline-{len(scripts)}.js"></script>'

    text = _INLINE.sub(outside, text)
    for number, script in enumerate(scripts, start=1):
        (folder / f"inline-{number}.js").write_text(script, encoding="utf-8")
    page.write_text(_ROOTED.sub(rf'\1="{PREFIX}', text), encoding="utf-8")
    moved = 0
    for bundle in folder.glob("*.js"):
        program = bundle.read_text(encoding="utf-8", errors="surrogateescape")
        program, count = _PUBLIC_PATH.subn(rf'\1"{PREFIX}"', program)
        if count:
            bundle.write_text(program, encoding="utf-8", errors="surrogateescape")
            moved += count
    for sheet in folder.glob("*.css"):
        sheet.write_text(_IN_STYLE.sub(rf"url(\1{PREFIX}", sheet.read_text(encoding="utf-8")), encoding="utf-8")
    if not moved:
        raise CommandError(f"This build cannot be moved; build it with PUBLIC_URL={PREFIX} instead.")
