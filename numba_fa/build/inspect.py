"""A compiled kernel as people read it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from numba_fa.build.artifact import Artifact
from numba_fa.errors import CompileError


def describe(artifact: Artifact) -> str:
    """Registers, spills, shared memory, sizes and the versions that made it, one a line."""
    rows = {
        "kernel": artifact.slug,
        "architecture": artifact.arch,
        "entry": artifact.entry,
        "threads a block": artifact.threads,
        "registers a thread": artifact.registers,
        "stack bytes": artifact.stack,
        "spill stores, loads": f"{artifact.spill_stores}, {artifact.spill_loads} bytes",
        "shared bytes a block": artifact.shared_bytes,
        "cubin bytes": len(artifact.cubin),
        "made with": ", ".join(f"{name} {version}" for name, version in artifact.versions.items()),
    }
    return "\n".join(f"{name:22}{value}" for name, value in rows.items())


def sass(artifact: Artifact) -> str:
    """The kernel's machine code; CompileError where there is no disassembler."""
    tool = find_disassembler()
    if tool is None:
        raise CompileError('no cuobjdump or nvdisasm here; pip install nvidia-cuda-nvdisasm brings one')
    arguments = ["-sass"] if tool.stem == "cuobjdump" else ["-c"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(artifact.cubin)
        file.flush()
        done = subprocess.run([str(tool), *arguments, file.name], capture_output=True, text=True)
    if done.returncode:
        raise CompileError(f"{tool.name} failed: {done.stderr.strip()}")
    return done.stdout


def find_disassembler() -> Path | None:
    """nvdisasm or cuobjdump: on the PATH, or from the wheels beside this Python's packages."""
    for name in ("nvdisasm", "cuobjdump"):
        found = shutil.which(name)
        if found:
            return Path(found)
        for folder in sys.path:
            for place in ("nvidia/cu13/bin", f"nvidia/cuda_{name}/bin"):
                tool = Path(folder, place, name)
                if tool.is_file():
                    return tool
    return None
