"""The store in one process: whole artifacts or none, whatever is done to its files or wrong with its disk."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from numba_fa.build import fingerprint
from numba_fa.build import store as store_module
from numba_fa.build.artifact import MAGIC, Artifact, CorruptArtifact
from numba_fa.build.store import Store, default_store
from numba_fa.errors import StoreWarning

SLUG, ARCH, MIB = "fwd-sm90-bf16-d128-causal", "sm_90a", 1 << 20
SAMPLE = Artifact(
    slug=SLUG,
    arch=ARCH,
    entry="numba_fa_forward",
    cubin=bytes(range(256)) * 8,
    registers=168,
    stack=0,
    spill_stores=4,
    spill_loads=12,
    shared_bytes=213_040,
    threads=384,
    versions={"numba-cuda": "0.30.4"},
)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """The warning a process gives once has not been given, and no default store exists."""
    monkeypatch.setattr(store_module, "_degraded", store_module.threading.Event())
    store_module._store_for.cache_clear()
    yield
    store_module._store_for.cache_clear()


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


@pytest.fixture
def open_store(folder: Path, root: Path) -> Callable[..., Store]:
    """A new store on the folder, with nothing in its memory, as another process would see it."""
    return lambda max_bytes=MIB, path=folder: Store(path, max_bytes, root)


def only_file(folder: Path) -> Path:
    """The one entry's file."""
    (file,) = folder.glob(f"*{store_module.SUFFIX}")
    return file


def warned(action: Callable[[], object]) -> tuple[object, list[str]]:
    """What `action` returns, and the messages of its store warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = action()
    return result, [str(w.message) for w in caught if issubclass(w.category, StoreWarning)]


def test_round_trip_through_the_disk(open_store):
    """Every field comes back, and nothing is warned of."""
    got, messages = warned(lambda: (open_store().put(SAMPLE), open_store().get(SLUG, ARCH))[1])
    assert got == SAMPLE
    assert messages == []


def test_misses(open_store):
    """Another slug, architecture or extra content is another key; so is an empty folder's."""
    assert open_store().get(SLUG, ARCH) is None
    open_store().put(SAMPLE, b"f")
    store = open_store()
    assert [store.get(SLUG, ARCH), store.get(SLUG, "sm_80", b"f"), store.get("bwd", ARCH, b"f")] == [None] * 3
    assert store.get(SLUG, ARCH, b"f") == SAMPLE


def test_a_person_can_read_the_folder(open_store, folder):
    """Slug and architecture stand in the file name and in the listing, with true sizes."""
    open_store().put(SAMPLE)
    file = only_file(folder)
    assert file.name.startswith(f"{SLUG}--{ARCH}--")
    (entry,) = open_store().entries()
    assert (entry.slug, entry.arch, entry.path) == (SLUG, ARCH, file)
    assert entry.size == open_store().size() == len(file.read_bytes())
    assert abs(entry.used - time.time()) < 60


def test_a_slug_of_any_text_has_a_file_of_its_own(open_store, folder):
    """Separators, long names and other scripts neither leave the folder nor collide."""
    slugs = ["../up", "a/b", "a_b", "x" * 300, "x" * 301, "é", "a--b", ""]
    for slug in slugs:
        open_store().put(replace(SAMPLE, slug=slug))
    assert [open_store().get(slug, ARCH).slug for slug in slugs] == slugs
    assert {file.parent for file in folder.rglob(f"*{store_module.SUFFIX}")} == {folder}


def test_the_second_get_does_not_touch_the_disk(open_store, folder):
    """Once read, an artifact stays for the process."""
    open_store().put(SAMPLE)
    store = open_store()
    first = store.get(SLUG, ARCH)
    only_file(folder).unlink()
    assert store.get(SLUG, ARCH) is first
    assert open_store().get(SLUG, ARCH) is None


def test_clear(open_store, folder):
    """It empties memory, folder and quarantine, says how many entries went, and spares foreign files."""
    store = open_store()
    for number in range(3):
        store.put(replace(SAMPLE, slug=f"fwd-{number}"))
    (folder / "readme.txt").write_text("mine")
    assert store.clear() == 3
    assert (store.clear(), store.size(), store.entries(), store.get("fwd-0", ARCH)) == (0, 0, [], None)
    assert (folder / "readme.txt").exists()


def test_an_edit_under_a_running_process_is_not_stored(open_store, root):
    """Its code may be of either text, so it stays in memory, out of later processes' sight."""
    store = open_store()
    assert store.get(SLUG, ARCH) is None
    (root / "jit.py").write_text("edited\n")
    store.put(SAMPLE)
    assert store.get(SLUG, ARCH) == SAMPLE
    assert open_store().get(SLUG, ARCH) is None


BLOB = SAMPLE.to_bytes()
JSON_AT, CUBIN_AT = BLOB.index(b"{"), BLOB.index(SAMPLE.cubin)
REGIONS = {
    "magic": (0, "magic"),
    "format": (8, "format version"),
    "digest": (12, "checksum"),
    "last of digest": (43, "checksum"),
    "length": (44, "checksum"),
    "json": (JSON_AT + 5, "checksum"),
    "first of cubin": (CUBIN_AT, "checksum"),
    "last of cubin": (len(BLOB) - 1, "checksum"),
}
LENGTHS = [0, 7, 8, 20, 44, 46, 48, JSON_AT + 20, CUBIN_AT, len(BLOB) - 1]


def flip(position: int, blob: bytes) -> bytes:
    """`blob` with one bit changed."""
    return blob[:position] + bytes([blob[position] ^ 4]) + blob[position + 1 :]


FAULTS = {name: (lambda blob, at=at: flip(at, blob), says) for name, (at, says) in REGIONS.items()}
FAULTS |= {f"cut to {n}": (lambda blob, n=n: blob[:n], "shorter" if n < 44 else "checksum") for n in LENGTHS}
FAULTS["appended"] = (lambda blob: blob + b"\0", "checksum")
FAULTS["foreign"] = (lambda blob: b"\x7fELF" + bytes(100), "magic")


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_entry_is_quarantined_with_one_warning(open_store, folder, name):
    """It is a miss, its bytes are kept aside, the fault is named, and the next write heals it."""
    damage, says = FAULTS[name]
    open_store().put(SAMPLE)
    file = only_file(folder)
    bad = damage(file.read_bytes())
    file.write_bytes(bad)

    store = open_store()
    gets = [store.get, store.get, open_store().get]
    got, messages = warned(lambda: [get(SLUG, ARCH) for get in gets])
    assert got == [None] * 3
    assert len(messages) == 1 and says in messages[0] and file.name in messages[0]
    assert not file.exists()
    assert [kept.read_bytes() for kept in (folder / "quarantine").iterdir()] == [bad]
    assert store.entries() == []

    store.put(SAMPLE)
    assert warned(lambda: open_store().get(SLUG, ARCH)) == (SAMPLE, [])


def test_every_bit_of_the_bytes_is_checked():
    """No single flipped bit passes, wherever it is."""
    blob = replace(SAMPLE, cubin=b"cubin").to_bytes()
    for position in range(len(blob)):
        for bit in range(8):
            bad = blob[:position] + bytes([blob[position] ^ 1 << bit]) + blob[position + 1 :]
            with pytest.raises(CorruptArtifact):
                Artifact.from_bytes(bad)


@pytest.mark.parametrize(
    ("length", "text"), [(1, b"{"), (2, b"[]"), (13, b'{"slug": "a"}'), (1, b"\xff"), (0, b""), (1000, b"{}")]
)
def test_well_summed_nonsense_is_refused(length, text):
    """A right checksum over wrong metadata, or over a length past the end, is still no artifact."""
    body = length.to_bytes(4, "little") + text
    with pytest.raises(CorruptArtifact, match="metadata"):
        Artifact.from_bytes(MAGIC + (1).to_bytes(4, "little") + hashlib.sha256(body).digest() + body)


def test_metadata_of_a_wrong_type_is_named():
    """A count that is text would fail far from here."""
    with pytest.raises(CorruptArtifact, match="wrong type: registers"):
        Artifact.from_bytes(replace(SAMPLE, registers="168").to_bytes())


@pytest.mark.parametrize("other", [{"slug": "bwd-sm90-bf16-d128"}, {"arch": "sm_80"}])
def test_an_entry_under_another_key_is_refused(open_store, folder, other):
    """A whole, valid file copied over another's name is not believed."""
    open_store().put(SAMPLE)
    right = only_file(folder).read_bytes()
    open_store().clear()
    open_store().put(replace(SAMPLE, **other))
    only_file(folder).write_bytes(right)
    got, messages = warned(lambda: open_store().get(other.get("slug", SLUG), other.get("arch", ARCH)))
    assert got is None
    assert len(messages) == 1 and "key" in messages[0]


def test_an_entry_of_older_sources_is_refused_under_the_new_name(open_store, folder, root):
    """Same slug and architecture, but machine code of another text of the sources."""
    open_store().put(SAMPLE)
    old = only_file(folder)
    (root / "jit.py").write_text("newer\n")
    fingerprint._source_digest.cache_clear()
    assert open_store().get(SLUG, ARCH) is None
    key = fingerprint.fingerprint(SLUG, ARCH, root=root)
    old.rename(folder / f"{SLUG}--{ARCH}--{key}{store_module.SUFFIX}")
    got, messages = warned(lambda: open_store().get(SLUG, ARCH))
    assert got is None
    assert len(messages) == 1


def test_quarantine_is_bounded(open_store, folder):
    """The newest are kept."""
    for number in range(store_module.QUARANTINE_LIMIT + 5):
        open_store().put(SAMPLE)
        only_file(folder).write_bytes(str(number).encode())
        warned(lambda: open_store().get(SLUG, ARCH))
    kept = {int(file.read_bytes()) for file in (folder / "quarantine").iterdir()}
    assert kept == set(range(5, store_module.QUARANTINE_LIMIT + 5))


def test_a_damaged_entry_that_cannot_be_moved_is_warned_of_once(open_store, folder, monkeypatch):
    """On a read-only disk the bad file stays, unread from then on."""
    open_store().put(SAMPLE)
    only_file(folder).write_bytes(b"bad")
    monkeypatch.setattr(os, "replace", failing(errno.EROFS))
    store = open_store()
    got, messages = warned(lambda: [store.get(SLUG, ARCH), store.get(SLUG, ARCH)])
    assert got == [None, None]
    assert len(messages) == 1 and "cannot be moved" in messages[0]


def test_past_the_cap_the_least_recently_used_go(open_store, folder):
    """Three fit; the fourth drives out the one not read, not the one written first."""
    size = len(SAMPLE.to_bytes("0" * 64))
    for age, name in enumerate("cba"):
        open_store(4 * size).put(replace(SAMPLE, slug=name))
        (file,) = folder.glob(f"{name}--*")
        os.utime(file, (time.time() - 300 + 100 * age,) * 2)  # c is the oldest, then b, then a
    assert [entry.slug for entry in open_store().entries()] == ["a", "b", "c"]
    assert open_store().get("c", ARCH)
    open_store(3 * size).put(replace(SAMPLE, slug="d"))
    assert {entry.slug for entry in open_store().entries()} == {"a", "c", "d"}
    assert open_store().size() <= 3 * size


def test_an_artifact_larger_than_the_cap_is_kept_in_memory(open_store):
    """The cap holds on disk, and the process need not compile twice."""
    store = open_store(100)
    store.put(SAMPLE)
    assert store.size() == 0
    assert store.get(SLUG, ARCH) == SAMPLE


def test_memory_is_capped_too(root):
    """Without a folder the least recently used artifacts leave memory."""
    store = Store(None, 3 * len(SAMPLE.cubin), root)
    for name in "abc":
        store.put(replace(SAMPLE, slug=name))
    assert store.get("a", ARCH)
    store.put(replace(SAMPLE, slug="d"))
    assert [entry.slug for entry in store.entries()] == ["d", "a", "c"]
    assert store.get("b", ARCH) is None
    assert store.size() == 3 * len(SAMPLE.cubin)


def failing(number: int) -> Callable[..., None]:
    """A stand-in for a system call that fails with errno `number`; root ignores permission bits, not this."""

    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
def test_a_disk_that_cannot_be_written_means_memory(open_store, folder, monkeypatch, number, call):
    """The first failure warns; later ones and other stores of the process do not; no piece is left behind."""
    monkeypatch.setattr(os, call, failing(number))
    store = open_store()
    bwd = replace(SAMPLE, slug="bwd")
    _, messages = warned(lambda: [store.put(SAMPLE), store.put(bwd), open_store().put(SAMPLE)])
    assert [store.get(SLUG, ARCH), store.get("bwd", ARCH)] == [SAMPLE, bwd]
    assert len(messages) == 1 and os.strerror(number) in messages[0] and str(folder) in messages[0]
    assert [entry.slug for entry in store.entries()] == ["bwd", SLUG]
    assert store.size() == 2 * len(SAMPLE.cubin)
    assert [file for file in folder.rglob("*") if file.is_file()] == []


def test_a_full_disk_still_serves_what_it_holds(open_store, monkeypatch):
    """Writing fails; reading does not."""
    open_store().put(SAMPLE)
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    store = open_store()
    warned(lambda: store.put(replace(SAMPLE, slug="bwd")))
    assert store.get(SLUG, ARCH) == SAMPLE


def test_clearing_a_full_disk_lets_it_be_written_again(open_store, monkeypatch):
    """Room has been made."""
    store = open_store()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        warned(lambda: store.put(SAMPLE))
    store.put(SAMPLE)
    assert open_store().get(SLUG, ARCH) is None
    assert store.clear() == 1
    store.put(SAMPLE)
    assert open_store().get(SLUG, ARCH) == SAMPLE


@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_a_folder_that_is_a_file(open_store, folder, below):
    """Nor can there be a folder below a regular file."""
    folder.write_text("a file")
    store = open_store(path=folder / below)
    assert warned(lambda: store.get(SLUG, ARCH)) == (None, [])
    got, messages = warned(lambda: [store.put(SAMPLE), store.get(SLUG, ARCH), store.clear()])
    assert got == [None, SAMPLE, 1]
    assert len(messages) == 1
    assert folder.read_text() == "a file"


def test_a_folder_that_cannot_be_read(open_store, monkeypatch):
    """Each get is a miss, with one warning in all."""
    open_store().put(SAMPLE)
    monkeypatch.setattr(Path, "read_bytes", failing(errno.EACCES))
    store = open_store()
    got, messages = warned(lambda: [store.get(SLUG, ARCH), store.get(SLUG, ARCH)])
    assert got == [None, None]
    assert len(messages) == 1


def test_memory_only_says_nothing_and_writes_nothing(monkeypatch, folder):
    """NUMBA_FA_CACHE=0 is a wish, not a fault."""
    monkeypatch.setenv("NUMBA_FA_CACHE_DIR", str(folder))
    monkeypatch.setenv("NUMBA_FA_CACHE", "0")
    store = default_store()
    got, messages = warned(lambda: (store.put(SAMPLE), default_store().get(SLUG, ARCH))[1])
    assert (got, messages, store.path) == (SAMPLE, [], None)
    assert [entry.slug for entry in store.entries()] == [SLUG]
    assert not folder.exists()
    assert (store.clear(), store.get(SLUG, ARCH)) == (1, None)


def test_the_default_store_follows_the_environment(monkeypatch, tmp_path):
    """One object for the same values, another when they change, the first again when they change back."""
    monkeypatch.delenv("NUMBA_FA_CACHE", raising=False)
    monkeypatch.setenv("NUMBA_FA_CACHE_DIR", str(tmp_path / "one"))
    one = default_store()
    assert default_store() is one and one.path == tmp_path / "one"
    monkeypatch.setenv("NUMBA_FA_CACHE_DIR", str(tmp_path / "two"))
    assert default_store().path == tmp_path / "two"
    monkeypatch.setenv("NUMBA_FA_CACHE_BYTES", "1234")
    assert default_store().max_bytes == 1234
    monkeypatch.delenv("NUMBA_FA_CACHE_BYTES")
    monkeypatch.setenv("NUMBA_FA_CACHE_DIR", str(tmp_path / "one"))
    assert default_store() is one
