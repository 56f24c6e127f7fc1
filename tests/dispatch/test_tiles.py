"""What tiles take by dispatch's model, beside what the kernels say; and the defaults."""

from itertools import product

import pytest

from numba_fa.dispatch import tiles, tuning
from numba_fa.dispatch.key import DispatchKey, HeadDims
from numba_fa.dispatch.tiles import HOPPER_BYTES, TURING_BYTES, Tile, candidates, default_tile, shared_bytes
from numba_fa.dispatch.tuning import TABLE, key_for, on_device
from numba_fa.kernels.simt.forward import make_forward
from numba_fa.kernels.sm90.shape import Shape
from tests.dispatch.devices import ADA, AMPERE, CPU, HOPPER

SM90_DIMS = range(16, 257, 16)


# Widths of queries and keys, and of values: each with itself, and pairs of different ones.
PAIRS = [HeadDims(n, n) for n in SM90_DIMS] + [
    HeadDims(*pair) for pair in product((16, 64, 80, 128, 192, 256), repeat=2) if pair[0] != pair[1]
]


def key_of(family, dims, tile, dtype="bf16"):
    key = DispatchKey("fwd", family, dtype, dims.head_dim, "causal", 0, 0, 0, head_dim_v=dims.head_dim_v)
    return tiles.with_tile(key, tile)


def equal(head_dim):
    return HeadDims(head_dim, head_dim)


@pytest.mark.parametrize("dims", PAIRS, ids=str)
def test_the_model_of_sm90_is_the_kernels_arithmetic(dims):
    for block_m in (128, 192):
        for block_n in range(16, 257, 16):
            for stages in (1, 2, 3, 4):
                tile = Tile(block_m, block_n, stages)
                shape = Shape(key_of("sm90", dims, tile))
                assert shared_bytes("sm90", dims, tile) == shape.shared_bytes
                assert tiles.registers("sm90", dims, tile)[1] == shape.registers[1]


@pytest.mark.parametrize("tile", [Tile(64, 64, 1), Tile(32, 16, 1), Tile(16, 64, 1)])
@pytest.mark.parametrize("dims", [equal(8), equal(72), equal(256), HeadDims(8, 72), HeadDims(192, 128)], ids=str)
def test_the_model_of_simt_is_the_kernels_arithmetic(dims, tile):
    source = make_forward(key_of("simt", dims, tile, "fp32"))
    assert shared_bytes("simt", dims, tile) == source.shared_bytes


def test_every_row_of_the_table_fits_by_the_model_and_has_an_origin():
    for row in TABLE:
        tile = Tile(row.block_m, row.block_n, row.stages)
        limit = {"sm90": HOPPER_BYTES, "simt": TURING_BYTES, "cpu": 0}[row.family]
        assert tiles.fits(row.family, HeadDims(row.head_dim, min(row.head_dim, row.values)), tile, limit), row
        assert row.origin.device and row.origin.command


@pytest.mark.parametrize("most", tuning.lengths())
@pytest.mark.parametrize("dims", PAIRS, ids=str)
def test_the_row_of_the_wider_fits_every_pair(dims, most):
    for mask in ("full", "causal"):
        key = tuning.for_length(key_for("fwd", "sm90", "bf16", dims.head_dim, mask, head_dim_v=dims.head_dim_v), most)
        assert key.dims == dims and tiles.fits("sm90", dims, tiles.tile_of(key), HOPPER_BYTES), key


@pytest.mark.parametrize(("family", "head_dim", "tile"), [
    ("sm90", 64, (192, 128, 4)), ("sm90", 128, (128, 128, 2)), ("sm90", 192, (128, 112, 2)), ("sm90", 256, (128, 80, 2)),
    ("simt", 64, (64, 64, 1)), ("cpu", 64, (128, 64, 1)), ("sm90", 272, None), ("sm91", 64, None),
])  # fmt: skip
def test_defaults(family, head_dim, tile):
    assert default_tile(family, equal(head_dim)) == (Tile(*tile) if tile else None)


@pytest.mark.parametrize("family", ["sm90", "simt"])
def test_defaults_fit_every_head_dim_and_are_candidates(family):
    for dims in PAIRS if family == "sm90" else [*map(equal, range(8, 257, 8)), *PAIRS]:
        limit = HOPPER_BYTES if family == "sm90" else TURING_BYTES
        tile = default_tile(family, dims)
        assert tiles.fits(family, dims, tile, limit)
        assert tile in candidates(family, dims, limit)


def test_a_default_fits_the_memory_there_is():
    for limit in (24 << 10, 48 << 10, 64 << 10):
        assert shared_bytes("simt", equal(128), default_tile("simt", equal(128), limit)) <= limit
    assert default_tile("simt", equal(256), 8 << 10) is None


def test_a_key_without_a_row_gets_a_default(monkeypatch):
    monkeypatch.setattr(tuning, "TABLE", ())
    assert key_for("fwd", "sm90", "bf16", 128, "causal").slug == "fwd-sm90-bf16-d128-causal-m128n128s2"
    with pytest.raises(LookupError, match="no tile for sm91"):
        key_for("fwd", "sm91", "bf16", 128, "causal")


def test_a_row_that_does_not_fit_a_device_gives_way():
    key = key_of("simt", equal(64), Tile(128, 128, 1))
    assert shared_bytes("simt", equal(64), Tile(128, 128, 1)) > ADA.shared_bytes
    found = on_device(key, ADA)
    assert shared_bytes("simt", equal(64), tiles.tile_of(found)) <= TURING_BYTES
    assert on_device(key, AMPERE) == key  # there it fits


def test_tiles_that_fit_stay():
    for device in (HOPPER, AMPERE, ADA, CPU):
        for family in device.families:
            key = key_for("fwd", family, "bf16", 128, "causal")
            assert on_device(key, device) == key
