"""The store among processes: writers and readers at once, killed writers, a fresh process's imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from numba_fa.build import store as store_module
from numba_fa.build.artifact import Artifact
from numba_fa.build.store import Store

PROJECT = Path(store_module.__file__).parents[2]
KEYS = [f"fwd-{number}" for number in range(3)]
# What each process starts with: argv is the store's folder, the package tree and the program's own arguments.
# An artifact tells its writer three times over (cubin's bytes, registers, threads), so a mixture would show.
PRELUDE = """
import os, sys, warnings
from pathlib import Path
from numba_fa.build.artifact import Artifact
from numba_fa.build.store import Store

warnings.simplefilter("error")
folder, root, mine = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
keys = [f"fwd-{number}" for number in range(3)]

def artifact(slug, writer):
    size = 20_000 + 5_000 * writer
    return Artifact(slug, "sm_90a", "entry", bytes([writer]) * size, size, 0, 0, 0, 0, writer, {})

def store():
    return Store(folder, 1 << 24, root)
"""
WRITER = "for turn in range(100):\n    store().put(artifact(keys[turn % 3], mine))\n"
READER = """
hits = 0
turn = 0
while turn < 1500 or not hits:  # a busy machine may start it long before the first writer
    turn += 1
    slug = keys[turn % 3]
    found = store().get(slug, "sm_90a")
    if found is not None:
        assert found == artifact(slug, found.threads), "torn read"
        hits += 1
print(hits)
"""
# Stops after the bytes have reached the file in tmp/ and before the rename.
HALF_WRITER = """
import time
def stop(handle):
    print("written", flush=True)
    time.sleep(60)
os.fsync = stop
store().put(artifact(keys[0], mine))
"""
ENDLESS_WRITER = """
print("started", flush=True)
while True:
    for slug in keys:
        store().put(artifact(slug, mine))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package tree of its own, so that an edit of the real one does not change keys under a test."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/jit.py").write_text("source\n")
    return tmp_path / "package"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store under test keeps its files; not there yet."""
    return tmp_path / "kernels"


def spawn(program: str, *arguments: object, prelude: str = PRELUDE, **variables: str) -> subprocess.Popen:
    """Start `prelude` and `program` in a fresh interpreter, with the environment `variables`."""
    command = [sys.executable, "-c", prelude + program, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)} | variables
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    """What the process printed; fails with its traceback if it failed."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def kill_after(process: subprocess.Popen, seconds: float) -> None:
    """Wait for the process's first line, then `seconds`, and kill it as the kernel would for memory."""
    assert process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def whole(artifact: Artifact) -> bool:
    """Whether one writer wrote all of it."""
    return artifact.cubin == bytes([artifact.threads]) * artifact.registers


def test_no_read_is_torn_under_four_writers(folder, root):
    """Four processes write three keys 100 times each while two read 1500 times; every hit is one writer's."""
    writers = [spawn(WRITER, folder, root, number) for number in range(1, 5)]
    readers = [spawn(READER, folder, root, 0) for _ in range(2)]
    for process in writers:
        finish(process)
    assert all(int(finish(process)) > 0 for process in readers)
    assert sorted(entry.slug for entry in Store(folder, 1 << 24, root).entries()) == KEYS
    assert list((folder / "tmp").iterdir()) == []
    assert not (folder / "quarantine").exists()


def test_a_writer_killed_before_the_rename_leaves_no_entry(folder, root):
    """Its bytes stay in tmp/, unseen, and go with the first write an hour later."""
    kill_after(spawn(HALF_WRITER, folder, root, 1), 0)
    store = Store(folder, 1 << 24, root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (store.get(KEYS[0], "sm_90a"), store.entries(), store.size()) == (None, [], 0)
        (left,) = (folder / "tmp").iterdir()
        sample = Artifact(KEYS[0], "sm_90a", "entry", b"cubin", 1, 0, 0, 0, 0, 1, {})
        store.put(sample)
        assert left.exists()
        os.utime(left, (time.time() - store_module.STALE_SECONDS - 1,) * 2)
        store.put(sample)
    assert not left.exists()
    assert Store(folder, 1 << 24, root).get(KEYS[0], "sm_90a") == sample


def test_writers_killed_at_any_moment_leave_whole_entries(folder, root):
    """Twelve writers die 0 to 22 ms into their work, several writes long; what can be seen is whole."""
    for number in range(12):
        kill_after(spawn(ENDLESS_WRITER, folder, root, number + 1), 0.002 * number)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = [Store(folder, 1 << 24, root).get(slug, "sm_90a") for slug in KEYS]
        assert all(whole(artifact) for artifact in found if artifact is not None)
    assert any(artifact is not None for artifact in found)


def test_a_stored_kernel_is_found_without_numba(folder):
    """A fresh process finds it on disk within 0.3 s, imports included, with no numba and no framework; 0.05 s in quiet."""
    program = """
import sys, time
began = time.perf_counter()
from numba_fa.build.artifact import Artifact
from numba_fa.build.store import default_store
found = default_store().get("fwd", "sm_90a")
took = time.perf_counter() - began
print([name for name in ("numba", "torch", "numpy", "cuda") if name in sys.modules], took < 0.3)
if found is None:
    default_store().put(Artifact("fwd", "sm_90a", "entry", b"cubin", 1, 0, 0, 0, 0, 1, {}))
print(found is not None)
"""
    variables = {"NUMBA_FA_CACHE_DIR": str(folder), "NUMBA_FA_CACHE": "1"}
    first, *others = [finish(spawn(program, prelude="", **variables)).split("\n")[:2] for _ in range(4)]
    assert first[0].startswith("[] ") and first[1] == "False"
    assert all(loaded.startswith("[] ") and found == "True" for loaded, found in others)
    assert ["[] True", "True"] in others
