"""Beside an nvJitLink of CUDA 12 that an array library brought, the compiler's own is loaded; and nowhere else."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import numba_fa
from numba_fa import prepared
from numba_fa.adapters import linker
from numba_fa.testing.pretended_gpu import pretended_gpu

pytestmark = pytest.mark.skipif(not hasattr(os, "RTLD_NOLOAD"), reason="Windows loads libraries in another way")


@pytest.fixture
def loads(monkeypatch):
    """What is loaded, as (name, mode); an older one is there if `loads.older`."""

    class Loads(list):
        older = True

        def load(self, name, mode=0):
            self.append((str(name), mode))
            if mode == os.RTLD_NOLOAD and not self.older:
                raise OSError(name)

    made = Loads()
    monkeypatch.setattr(linker.ctypes, "CDLL", made.load)
    return made


def test_the_compilers_own_is_loaded_beside_an_older_one(loads):
    linker.load_beside_older()
    (asked, mode), (own, _) = loads
    assert (asked, mode) == ("libnvJitLink.so.12", os.RTLD_NOLOAD)
    assert os.path.isfile(own) and "libnvJitLink.so.13" in own


def test_nothing_is_loaded_where_there_is_no_older_one(loads):
    loads.older = False
    linker.load_beside_older()
    assert len(loads) == 1


def test_a_compiler_that_is_no_package_is_left_to_cuda_bindings(loads, monkeypatch):
    def files(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(linker.metadata, "files", files)
    linker.load_beside_older()
    assert len(loads) == 1


def test_what_cannot_be_loaded_is_left_to_cuda_bindings(loads, monkeypatch):
    load = linker.ctypes.CDLL

    def fails(name, mode=0):
        load(name, mode)
        if mode != os.RTLD_NOLOAD:
            raise OSError(name)

    monkeypatch.setattr(linker.ctypes, "CDLL", fails)
    linker.load_beside_older()
    assert len(loads) == 2


def test_each_kernel_that_is_planned_asks(monkeypatch):
    """The older one may have come since the last."""
    torch = pytest.importorskip("torch")
    asked = []
    monkeypatch.setattr(prepared, "load_beside_older", lambda: asked.append(len(asked)))
    q = torch.zeros(1, 64, 2, 64, dtype=torch.bfloat16)
    with pretended_gpu():
        numba_fa.attention(q, q, q)
        assert len(asked) == 1
        numba_fa.attention_backward(q, q, q, q, q.clone(), torch.zeros(1, 2, 64))
        assert len(asked) == 4  # a backward's three kernels


@pytest.mark.parametrize("asked", [False, True], ids=["left alone", "asked"])
def test_cuda_bindings_finds_the_compilers_own_first(tmp_path, asked):
    """A copy that calls itself libnvJitLink.so.12 stands for the older one, which cuda.bindings takes if left alone."""
    (own,) = [file.locate() for file in metadata.files("nvidia-nvjitlink") if file.name.startswith("libnvJitLink.so.")]
    older = tmp_path / "libnvJitLink.so.12"
    older.write_bytes(Path(own).read_bytes().replace(b"libnvJitLink.so.13\0", b"libnvJitLink.so.12\0"))
    source = f"""
import ctypes
ctypes.CDLL({str(older)!r})
from numba_fa.adapters.linker import load_beside_older
load_beside_older() if {asked} else None
from cuda.bindings import nvjitlink
nvjitlink.version()
with open("/proc/self/maps") as maps:
    print(*{{line.split()[-1] for line in maps if "nvJitLink" in line}})
"""
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert set(found.stdout.split()) == {str(older), *([str(own)] if asked else [])}
