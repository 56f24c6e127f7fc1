"""The fingerprint changes with all that shapes machine code, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from numba_fa.build import fingerprint as fp

PROJECT = Path(fp.__file__).parents[2]


def clear_caches() -> None:
    """Forget what a process computes once."""
    fp._source_digest.cache_clear()
    fp._versions.cache_clear()


@pytest.fixture(autouse=True)
def fresh_caches():
    """Each test starts as a new process would, and leaves nothing cached."""
    clear_caches()
    yield
    clear_caches()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package folder with one source of every kind, and files that shape no code."""
    for name in ("jit.py", *(f"{folder}/a.py" for folder in fp.SOURCES[1:]), "kernels/sm90/forward.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "cli.py").write_text("x = 1\n")
    (tmp_path / "ptx/notes.md").write_text("notes\n")
    return tmp_path


def read_anew(root: Path, slug: str = "fwd", arch: str = "sm_90a", extra: bytes = b"") -> str:
    """The fingerprint a new process would compute."""
    clear_caches()
    return fp.fingerprint(slug, arch, extra, root)


def test_is_a_sha256_and_repeats(tree):
    """Sixty-four hex digits, the same whenever nothing has changed."""
    first = read_anew(tree)
    assert len(bytes.fromhex(first)) == 32
    assert read_anew(tree) == first


@pytest.mark.parametrize("name", ["jit.py", *(f"{folder}/a.py" for folder in fp.SOURCES[1:])])
def test_an_edit_of_any_source_changes_it(tree, name):
    """One byte of one source suffices, and the old text gives the old fingerprint back."""
    before = read_anew(tree)
    text = (tree / name).read_text()
    (tree / name).write_text(text + " ")
    assert read_anew(tree) != before
    (tree / name).write_text(text)
    assert read_anew(tree) == before


def test_same_size_and_time_do_not_hide_an_edit(tree):
    """Content counts, not the time stamp that some caches trust."""
    before, file = read_anew(tree), tree / "kernels/sm90/forward.py"
    stat = file.stat()
    file.write_text(file.read_text().replace("forward", "Forward"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    assert read_anew(tree) != before


def test_adding_moving_and_swapping_sources_change_it(tree):
    """The relative path belongs to the hash, not the content alone."""
    seen = {read_anew(tree)}
    (tree / "kernels/sm90/forward.py").rename(tree / "kernels/sm90/forwards.py")  # the files' order stays
    seen.add(read_anew(tree))
    (tree / "ptx/new.py").write_text("")
    seen.add(read_anew(tree))
    (tree / "ptx/new.py").rename(tree / "tile/new.py")
    seen.add(read_anew(tree))
    one, other = (tree / "ptx/a.py").read_text(), (tree / "tile/a.py").read_text()
    (tree / "ptx/a.py").write_text(other)
    (tree / "tile/a.py").write_text(one)
    seen.add(read_anew(tree))
    assert len(seen) == 5


def test_other_files_and_the_place_of_the_tree_do_not_matter(tree, tmp_path_factory):
    """Files elsewhere, other kinds of file, time stamps and the root's own path are left out."""
    before = read_anew(tree)
    (tree / "cli.py").write_text("x = 2\n")
    (tree / "ptx/notes.md").write_text("other notes\n")
    (tree / "ptx/__pycache__").mkdir()
    (tree / "ptx/__pycache__/a.pyc").write_bytes(b"\0")
    os.utime(tree / "jit.py", (1, 1))
    assert read_anew(tree) == before
    moved = tmp_path_factory.mktemp("elsewhere") / "package"
    tree.rename(moved)
    assert read_anew(moved) == before


def test_slug_arch_and_extra_change_it(tree):
    """Each argument counts, and none can pass for another."""
    calls = [("fwd", "sm_90a"), ("bwd", "sm_90a"), ("fwd", "sm_80"), ("fwd", "sm_90a", b"f")]
    calls += [("fwdsm_90a", ""), ("", "fwdsm_90a"), ("sm_90a", "fwd")]
    assert len({read_anew(tree, *call) for call in calls}) == len(calls)


@pytest.mark.parametrize("name", fp.DISTRIBUTIONS)
def test_a_new_version_changes_it(tree, monkeypatch, name):
    """Each distribution's version counts."""
    before, real = read_anew(tree), metadata.version
    monkeypatch.setattr(metadata, "version", lambda asked: "999" if asked == name else real(asked))
    assert read_anew(tree) != before


def test_a_toolchain_package_appearing_changes_it(tree, monkeypatch):
    """libnvvm and nvJitLink count under whichever name they are installed."""
    real = metadata.version

    def without(asked: str) -> str:
        """No toolchain package installed."""
        if asked in fp.TOOLCHAIN:
            raise metadata.PackageNotFoundError(asked)
        return real(asked)

    def only(name: str):
        """One toolchain package installed."""
        return lambda asked: "13.5" if asked == name else without(asked)

    monkeypatch.setattr(metadata, "version", without)
    seen = {read_anew(tree)}
    for name in fp.TOOLCHAIN:
        monkeypatch.setattr(metadata, "version", only(name))
        seen.add(read_anew(tree))
        assert fp.versions()[name] == "13.5"
    assert len(seen) == 1 + len(fp.TOOLCHAIN)


def test_a_new_python_changes_it(tree, monkeypatch):
    """Python's minor version counts, for closures compile from byte code."""
    before = read_anew(tree)
    monkeypatch.setattr(fp, "sys", SimpleNamespace(version_info=SimpleNamespace(major=3, minor=99)))
    assert read_anew(tree) != before


def test_versions_are_those_installed():
    """As the installer recorded them; the caller's copy is its own."""
    found = fp.versions()
    assert found["numba-cuda"] == metadata.version("numba-cuda")
    assert found["python"] == ".".join(sys.version.split(".")[:2])
    found.clear()
    assert fp.versions()


def test_sources_are_read_once_a_process_and_an_edit_is_noticed(tree):
    """An edit under a running process keeps its fingerprints and is told by `sources_unchanged`."""
    before = fp.fingerprint("fwd", "sm_90a", root=tree)
    assert fp.sources_unchanged(tree)
    (tree / "jit.py").write_text("edited\n")
    assert fp.fingerprint("fwd", "sm_90a", root=tree) == before
    assert not fp.sources_unchanged(tree)


def test_no_sources_is_an_error(tmp_path):
    """A hash of nothing would be equal for every version of the package."""
    with pytest.raises(FileNotFoundError, match="no kernel source"):
        fp.fingerprint("fwd", "sm_90a", root=tmp_path)


def test_the_package_itself_is_covered():
    """The real tree lists its own builder, and nothing outside the package."""
    files = fp.source_files()
    assert "build/fingerprint.py" in files
    assert all((fp.PACKAGE / file).is_file() for file in files)


def test_another_process_agrees_and_loads_no_numba(tree):
    """A fresh interpreter with another hash seed computes the same, without numba, numpy or torch."""
    program = (
        "import sys; from pathlib import Path; from numba_fa.build import fingerprint as fp;"
        "print(fp.fingerprint('fwd', 'sm_90a', b'f', Path(sys.argv[1])));"
        "print([name for name in ('numba', 'numpy', 'torch', 'cuda') if name in sys.modules])"
    )
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program, str(tree)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.split("\n")[:2] == [read_anew(tree, extra=b"f"), "[]"]
