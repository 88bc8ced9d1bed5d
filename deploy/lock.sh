#!/bin/sh
# Resolves pyproject.toml anew and writes deploy/locks. sam2 stays apart: it is source only and is built against the installed torch.
set -eu
cd "$(dirname "$0")/.."
uv=$(command -v uv || ls .cache/uv-*/uv | tail -n 1)
common="--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --python .venv/bin/python --no-build-isolation-package sam2"
rm -f deploy/locks/dev.txt deploy/locks/runtime.txt
$uv pip compile -q pyproject.toml --group dev $common --no-emit-package sam2 --no-emit-package setuptools -o deploy/locks/dev.txt
$uv pip compile -q pyproject.toml -c deploy/locks/dev.txt $common --no-emit-package sam2 --no-emit-package setuptools -o deploy/locks/runtime.txt
printf 'sam2==1.1.0\n' | $uv pip compile -q - --no-deps $common -o deploy/locks/sam2.txt
printf 'setuptools==80.9.0\nwheel==0.45.1\n' | $uv pip compile -q - --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o deploy/locks/build.txt
