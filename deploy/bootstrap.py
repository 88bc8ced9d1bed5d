"""Creates .venv with exactly the packages of deploy/locks, on a machine that has Python 3.11 and nothing else.

Standard library only, and neither pip nor the venv module is needed (Debian leaves both out): uv does the work. uv itself comes
through pip where there is one, because pip knows this machine's registry and certificates, else straight from the registry; either
way its SHA-256 is pinned here.

    python3.11 deploy/bootstrap.py [--dev]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import urljoin

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "deploy" / "locks"
UV_VERSION = "0.13.9"
# (system, machine, C library) -> end of the wheel's name, SHA-256
UV_WHEELS = {
    ("linux", "x86_64", "glibc"): (
        "manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    ("linux", "aarch64", "glibc"): (
        "manylinux_2_28_aarch64.whl",
        "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    ),
    ("darwin", "arm64", ""): (
        "macosx_11_0_arm64.whl",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
}
NEEDED_DISK_GB = 9.0
NEEDED_MEMORY_GB = 5.0


class CannotGoOn(Exception):
    """One sentence for the person at the terminal."""


def check_machine() -> None:
    """Refuse, in one sentence, a machine on which the installation would fail half-way."""
    if sys.version_info[:2] != (3, 11):
        raise CannotGoOn(
            f"OncoFlow's locked packages are for Python 3.11, this is {platform.python_version()}: "
            "install python3.11 and run make with PYTHON=python3.11."
        )
    memory = memory_gb()
    if memory is not None and memory < NEEDED_MEMORY_GB:
        raise CannotGoOn(f"The models need {NEEDED_MEMORY_GB:.0f} GB of memory, this machine has {memory:.1f} GB.")


def check_disk() -> None:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_DISK_GB:
        raise CannotGoOn(
            f"The packages need about {NEEDED_DISK_GB:.0f} GB of disk, {free:.1f} GB are free where the project lies ({ROOT.name})."
        )


def memory_gb() -> float | None:
    """Memory of the machine, or of the container where that is less; None where neither can be read."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit.isdigit():
            total = min(total, int(limit) / 1e9)
    except OSError:
        pass
    return total


def environment() -> dict[str, str]:
    """Our environment, with uv's cache inside the project where HOME cannot be written."""
    env = dict(os.environ)
    env.pop("VIRTUAL_ENV", None)
    cache = Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or "/nonexistent") / ".cache")
    if "UV_CACHE_DIR" not in env:
        probe = cache
        while not probe.exists() and probe != probe.parent:
            probe = probe.parent
        if not os.access(probe, os.W_OK):
            env["UV_CACHE_DIR"] = str(ROOT / ".cache" / "uv")
    env.setdefault("UV_LINK_MODE", "hardlink")
    env["SAM2_BUILD_CUDA"] = "0"  # without the CUDA extension the wheel is pure Python; we do not use what it adds
    env.setdefault("UV_HTTP_TIMEOUT", "120")
    return env


def uv(env: dict[str, str]) -> Path:
    """Path of uv's pinned version, fetched on first use."""
    binary = ROOT / ".cache" / f"uv-{UV_VERSION}" / "uv"
    if binary.exists():
        return binary
    on_path = shutil.which("uv")
    if on_path:
        version = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=False).stdout
        if version.split()[1:2] == [UV_VERSION]:
            return Path(on_path)
    libc = "" if sys.platform == "darwin" else ("glibc" if platform.libc_ver()[0] == "glibc" else "musl")
    key = (sys.platform, platform.machine(), libc)
    if key not in UV_WHEELS:
        raise CannotGoOn(
            f"No pinned uv for this kind of machine ({' '.join(key)}): put uv {UV_VERSION} on PATH and try again."
        )
    name, digest = UV_WHEELS[key]
    wheel = wheel_by_pip(digest, env) or wheel_from_registry(name, digest)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        inner = next(one for one in archive.namelist() if one.endswith("/scripts/uv"))
        binary.parent.mkdir(parents=True, exist_ok=True)
        temporary = binary.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(archive.read(inner))
        temporary.chmod(temporary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        temporary.replace(binary)
    return binary


def wheel_by_pip(digest: str, env: dict[str, str]) -> bytes | None:
    """uv's wheel by ``pip download``; None where there is no pip or it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "uv.txt"
        wanted.write_text(f"uv=={UV_VERSION} --hash=sha256:{digest}\n", encoding="ascii")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "-r",
            str(wanted),
            "-d",
            folder,
        ]
        done = subprocess.run(command, capture_output=True, env=env, check=False)
        wheels = list(Path(folder).glob("uv-*.whl"))
        if done.returncode or not wheels:
            return None
        data = wheels[0].read_bytes()
    return data if hashlib.sha256(data).hexdigest() == digest else None


def wheel_from_registry(name: str, digest: str) -> bytes:
    """uv's wheel from the package registry's simple index (PEP 503), checked against ``digest``."""
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
    page_url = index.rstrip("/") + "/uv/"
    try:
        with urllib.request.urlopen(page_url, timeout=60) as answer:
            page = answer.read().decode("utf-8", "replace")
        found = re.search(rf'href="([^"#]*uv-{re.escape(UV_VERSION)}-[^"#]*{re.escape(name)})', page)
        if not found:
            raise CannotGoOn(f"The package registry does not offer uv {UV_VERSION}: put it on PATH and try again.")
        with urllib.request.urlopen(urljoin(page_url, found.group(1)), timeout=300) as answer:
            data = answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise CannotGoOn(
            f"The Python package registry cannot be reached ({getattr(error, 'reason', error)})."
        ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise CannotGoOn("What the registry sent as uv is not the pinned file; nothing was installed.")
    return data


def stamp(dev: bool) -> str:
    """What the environment was made from: changes when a lock file or this file changes."""
    digest = hashlib.sha256()
    for path in (
        LOCKS / ("dev.txt" if dev else "runtime.txt"),
        LOCKS / "sam2.txt",
        LOCKS / "build.txt",
        Path(__file__),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install(dev: bool) -> None:
    """Create or bring up to date the environment; does nothing where it is as locked already."""
    venv = ROOT / ".venv"
    mark = venv / (".oncoflow-dev" if dev else ".oncoflow-runtime")
    wanted = stamp(dev)
    if mark.exists() and mark.read_text(encoding="ascii") == wanted:
        return
    if (
        not dev
        and (venv / ".oncoflow-dev").exists()
        and (venv / ".oncoflow-dev").read_text(encoding="ascii") == stamp(True)
    ):
        return  # the tools of development hold all that running needs
    check_disk()
    env = environment()
    tool = str(uv(env))

    def run(*arguments: str) -> None:
        try:
            subprocess.run([tool, *arguments], cwd=ROOT, env=env, check=True)
        except subprocess.CalledProcessError as error:
            raise CannotGoOn(
                f"Installing the packages stopped at 'uv {' '.join(arguments[:2])}' (see above)."
            ) from error

    print("Installing the locked packages (about 7 GB with PyTorch; minutes, once) ...", flush=True)
    if not (venv / "bin" / "python").exists():
        run("venv", "--quiet", "--python", sys.executable, str(venv))
    python = str(venv / "bin" / "python")
    for old in (".oncoflow-dev", ".oncoflow-runtime"):
        (venv / old).unlink(missing_ok=True)
    lock = LOCKS / ("dev.txt" if dev else "runtime.txt")
    run(
        "pip",
        "install",
        "--python",
        python,
        "--require-hashes",
        "--no-deps",
        "-r",
        str(lock),
        "-r",
        str(LOCKS / "build.txt"),
    )
    # sam2 comes as source only; torch is there by now, so it need not be downloaded again into an isolated environment.
    run(
        "pip",
        "install",
        "--python",
        python,
        "--require-hashes",
        "--no-deps",
        "--no-build-isolation",
        "-r",
        str(LOCKS / "sam2.txt"),
    )
    mark.write_text(wanted, encoding="ascii")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    arguments = parser.parse_args()
    try:
        check_machine()
        install(arguments.dev)
    except CannotGoOn as error:
        print(f"oncoflow: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"oncoflow: cannot write {error.filename or 'the environment'}: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
