"""The identity of a kernel's machine code, known before the kernel is compiled.

It is a hash of the sources that shape the code, the versions of the compilers, the dispatch key's slug and
the architecture. Sources, not LLVM or PTX text: that text carries counters that depend on what the process
compiled before. Nothing here imports numba, so a kernel already in the store is found without it.

A CUDA toolkit found outside Python's packages (conda, a system folder) has no version here. Its cubins remain
right when it changes, only older than they might be.
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = ("jit.py", "scalar", "ptx", "tile", "flash", "kernels", "build", "dispatch", "problem")
DISTRIBUTIONS = ("numba", "numba-cuda", "llvmlite", "numpy", "cuda-core")
# Packages changed names between CUDA versions: up to CUDA 12 it was nvcc's wheel that carried libnvvm.
TOOLCHAIN = tuple(
    name + suffix
    for name in ("nvidia-nvvm", "nvidia-cuda-nvcc", "nvidia-nvjitlink")
    for suffix in ("", "-cu12", "-cu13")
)


def fingerprint(slug: str, arch: str, extra: bytes = b"", root: Path = PACKAGE) -> str:
    """Hex sha256 naming the code of kernel `slug` on `arch` (such as sm_90a).

    `extra` is further content that shapes the code, such as a user's functions; `root` the package's folder.
    """
    identity = json.dumps([slug, arch, _source_digest(root), list(_versions())]).encode()
    return hashlib.sha256(len(identity).to_bytes(8, "little") + identity + extra).hexdigest()


def versions() -> dict[str, str]:
    """Name -> version of Python (major.minor) and of each installed distribution that shapes machine code."""
    return dict(_versions())


def sources_unchanged(root: Path = PACKAGE) -> bool:
    """Whether the sources still are what this process's fingerprints stand for.

    False after an edit under a running process, whose compiled code may then be of either text.
    """
    return hash_sources(root) == _source_digest(root)


def source_files(root: Path = PACKAGE) -> list[str]:
    """Paths relative to `root`, with forward slashes and sorted, of every file that shapes machine code."""
    found = []
    for name in SOURCES:
        top = root / name
        if top.is_file():
            found.append(name)
        found += [file.relative_to(root).as_posix() for file in top.rglob("*.py")]
    return sorted(found)


def hash_sources(root: Path = PACKAGE) -> str:
    """Hex sha256 of the relative path and the content of every source file.

    Raises `FileNotFoundError` where there is none: such a hash would stand for every version of the package.
    """
    files = source_files(root)
    if not files:
        raise FileNotFoundError(f"no kernel source under {root}")
    digest = hashlib.sha256()
    for name in files:
        content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        digest.update(f"{content}  {name}\n".encode())
    return digest.hexdigest()


@lru_cache
def _source_digest(root: Path) -> str:
    """`hash_sources`, once a process."""
    return hash_sources(root)


@lru_cache
def _versions() -> tuple[tuple[str, str], ...]:
    """(name, version) pairs, sorted, once a process."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in DISTRIBUTIONS + TOOLCHAIN:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return tuple(sorted(found.items()))
