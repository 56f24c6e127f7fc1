"""`numba-fa tune` without a GPU: what it would measure, how it chooses, what it keeps."""

import pytest

from numba_fa.build.artifact import Artifact
from numba_fa.cli import main
from numba_fa.dispatch import measured
from numba_fa.dispatch.device import HOPPER
from numba_fa.dispatch.key import HeadDims
from numba_fa.dispatch.tiles import Tile
from numba_fa.dispatch.tuning import on_device
from numba_fa.testing import tune
from numba_fa.testing.tune import BIASES, MASKS, Point


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_FA_CACHE_DIR", str(tmp_path))
    yield
    measured._read.cache_clear()


@pytest.fixture
def pretended(monkeypatch):
    """A Hopper GPU on which 112 keys are the fastest, 64 keys spill, and 80 keys do not compile."""

    def compiled(keys, arch, jobs):
        for key in keys:
            spilled = 8 if key.block_n == 64 else 0
            made = Artifact(key.slug, arch, "", b"", 168, 0, spilled, 0, 0, 384, {})
            yield key, ValueError("serialised") if key.block_n == 80 else made

    def times(point, seqlen, tiles, repeats):
        assert not {64, 80} & {tile.block_n for tile in tiles}
        return {tile: 1.0 if tile == (128, 112, 2) else 1.1 for tile in tiles}

    monkeypatch.setattr(tune, "device_count", lambda: 1)
    monkeypatch.setattr(tune, "describe_device", lambda ordinal: HOPPER)
    monkeypatch.setattr(tune, "compiled", compiled)
    monkeypatch.setattr(tune, "times", times)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_and_bias_has_a_key(mask, bias):
    key = Point(HeadDims(72, 72), mask, bias).key(HOPPER)
    assert key.head_dim == 80 and key.family == "sm90"
    assert (key.bias == "none") == (bias == "none")


def test_the_tile_of_now_comes_first_and_once():
    key = Point(HeadDims(128, 128), "causal").key(HOPPER)
    tiles = tune.tiles_for(key, HOPPER)
    assert tiles[0] == Tile(128, 128, 2) and len(tiles) == len(set(tiles)) > 10


def test_the_list_needs_no_gpu(capsys):
    assert main(["tune", "--list", "--head-dims", "256", "192:128", "--masks", "window"]) == 0
    text = capsys.readouterr().out
    assert "-d256-window-" in text and "m128n64s2" in text
    assert "-d192v128-window-m128n128s2: m128n128s2" in text


def test_without_a_gpu_nothing_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(tune, "device_count", lambda: 0)
    assert main(["tune"]) == 1
    assert "no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize(("times", "wanted"), [
    ({128: [1.0, 1.0], 112: [0.9, 1.0]}, 112), ({128: [1.0, 1.0], 112: [0.995, 0.999]}, 128), ({128: [1.0, 9.0]}, 128),
    ({128: [1.0, 1.0], 112: [0.5, 1.9]}, 112), ({128: [1.0, 1.0], 112: [0.5, 2.1]}, 128),
])  # fmt: skip
def test_the_best_geometric_mean_wins_by_more_than_a_percent(times, wanted):
    tiles = {Tile(128, keys, 2): by_length for keys, by_length in times.items()}
    key = Point(HeadDims(128, 128), "causal").key(HOPPER)
    row = tune.best_row(key, list(tiles), lambda i: {tile: t[i] for tile, t in tiles.items()}, [0, 1])
    assert row.tile.block_n == wanted
    assert row.speeds["m128n128s2"] == 1.0 and list(row.speeds.values()) == sorted(row.speeds.values(), reverse=True)


def test_what_is_measured_is_kept_and_used(pretended, capsys):
    assert main(["tune", "--head-dims", "64", "128", "--masks", "causal", "--seqlens", "1024", "--jobs", "1"]) == 0
    assert "d128-causal-m128n128s2 -> m128n112s2" in capsys.readouterr().out
    table = measured.table_for(HOPPER.name)
    assert table.command.startswith("numba-fa tune --head-dims 64 128 --masks causal --biases none --seqlens 1024")
    assert "numba-cuda" in table.versions and table.date >= "2026"
    key = Point(HeadDims(128, 128), "causal").key(HOPPER)
    assert key.slug == "fwd-sm90-bf16-d128-causal-m128n112s2"
    assert on_device(key, HOPPER) == key


def test_values_of_their_own_head_dim_are_another_kind_of_call(pretended):
    assert main(["tune", "--head-dims", "128", "128:64", "--masks", "causal"]) == 0
    found = [Point(dims, "causal").key(HOPPER).slug for dims in (HeadDims(128, 128), HeadDims(128, 64), HeadDims(128, 32))]
    assert [slug.removeprefix("fwd-sm90-bf16-") for slug in found] == [
        "d128-causal-m128n112s2", "d128v64-causal-m128n112s2", "d128v32-causal-m128n128s2"
    ]  # fmt: skip
    assert len(measured.table_for(HOPPER.name).rows) == 2


def test_a_second_run_keeps_the_rows_of_the_first(pretended):
    for mask in ("causal", "full"):
        main(["tune", "--head-dims", "128", "--masks", mask])
    assert [row.mask for row in measured.table_for(HOPPER.name).rows] == ["causal", "full"]


def test_workloads_have_as_many_tokens():
    assert Point(HeadDims(64, 64), "full").sizes(2048) == tune.Sizes(8, 2048, 2048, 32)
