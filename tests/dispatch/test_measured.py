"""The user's own table: written whole, read for the GPU it is of, preferred for just what was measured."""

import json
from dataclasses import replace

import pytest

from numba_fa.dispatch import measured
from numba_fa.dispatch.measured import MeasuredRow, MeasuredTable
from numba_fa.dispatch.select import select
from numba_fa.dispatch.tiles import Tile
from numba_fa.dispatch.tuning import key_for, measured_tile, on_device
from numba_fa.errors import StoreWarning
from tests.dispatch.devices import AMPERE, CPU, HOPPER
from tests.problem.views import problem

ROW = MeasuredRow("sm90", 128, "causal", "none", Tile(128, 112, 2), {"m128n112s2": 1.04, "m128n128s2": 1.0})


@pytest.fixture
def table(monkeypatch, tmp_path):
    """One row for the pretended Hopper GPU, in a folder of its own."""
    monkeypatch.setenv("NUMBA_FA_CACHE_DIR", str(tmp_path / "new"))
    monkeypatch.delenv("NUMBA_FA_TUNING", raising=False)
    monkeypatch.delenv("NUMBA_FA_BACKEND", raising=False)
    written = MeasuredTable(HOPPER.name, "2026-01-01", "numba-fa tune", {"numba": "0"}, (ROW,))
    measured.write(written)
    yield written
    measured._read.cache_clear()


def causal(head_dim=128, mask="causal", bias="none", dtype="bf16"):
    return key_for("fwd", "sm90", dtype, head_dim, mask, bias)


def test_what_is_written_is_read(table):
    assert measured.table_for(HOPPER.name) == table
    (file,) = measured.path_for(HOPPER.name).parent.iterdir()
    assert file.name == "tuning-h100-or-h200-assumed.json"
    assert {"gpu", "date", "command", "versions"} < json.loads(file.read_text()).keys()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_own_tile_comes_first(table, dtype):
    assert on_device(causal(dtype=dtype), HOPPER).slug == f"fwd-sm90-{dtype}-d128-causal-m128n112s2"


@pytest.mark.parametrize("key", [causal(64), causal(112), causal(mask="full"), causal(bias="alibi")], ids=str)
def test_it_speaks_for_nothing_else(table, key):
    assert on_device(key, HOPPER) == key


def test_other_devices_do_not_read_it(table):
    assert measured_tile(causal(), AMPERE) is None
    assert measured_tile(causal(), CPU) is None


def test_a_switch_ignores_it(table, monkeypatch):
    monkeypatch.setenv("NUMBA_FA_TUNING", "0")
    assert on_device(causal(), HOPPER) == causal()


def test_select_takes_it_and_explain_tells(table):
    found = select(problem(mask="causal", head_dim=128, dtype="bfloat16", device="cuda:0"), HOPPER)
    assert found.key.block_n == 112
    assert "measured here" in str(found) and "tuning-h100" in str(found)
    found = select(problem(mask="full", head_dim=128, dtype="bfloat16", device="cuda:0"), HOPPER)
    assert "measured here" not in str(found)


def test_a_tile_that_does_not_fit_is_ignored(table):
    measured.write(MeasuredTable(HOPPER.name, "", "", {}, (replace(ROW, tile=Tile(128, 256, 4)),)))
    assert on_device(causal(), HOPPER) == causal()


def test_rows_join(table):
    other = MeasuredRow("sm90", 64, "full", "none", Tile(192, 128, 2))
    better = replace(ROW, tile=Tile(128, 128, 2))
    assert table.joined([better, other]) == (other, better)


NO_TILE = [{"family": "sm90", "head_dim": 1, "mask": "", "bias": "", "tile": [0, 1, 1]}]
BROKEN = [
    "", "[]", "{}", '{"format": 2, "rows": []}', '{"format": 1, "rows": [{}]}',
    json.dumps({"format": 1, "gpu": "x", "date": "", "command": "", "versions": {}, "rows": NO_TILE}),
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_ignored_with_a_warning(table, text):
    measured.path_for(HOPPER.name).write_text(text)
    measured._read.cache_clear()
    with pytest.warns(StoreWarning, match="numba-fa tune"):
        assert on_device(causal(), HOPPER) == causal()


def test_a_failed_write_leaves_nothing(table, monkeypatch):
    before = measured.path_for(HOPPER.name).read_text()
    with pytest.raises(TypeError):
        measured.write(MeasuredTable(HOPPER.name, object(), "", {}, ()))
    (file,) = measured.path_for(HOPPER.name).parent.iterdir()
    assert file.read_text() == before
