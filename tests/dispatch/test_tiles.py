"""What tiles take by dispatch's model, beside what the kernels say; and the defaults."""

import pytest

from numba_fa.dispatch import tiles, tuning
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.tiles import HOPPER_BYTES, TURING_BYTES, Tile, candidates, default_tile, shared_bytes
from numba_fa.dispatch.tuning import TABLE, key_for, on_device
from numba_fa.kernels.simt.forward import make_forward
from numba_fa.kernels.sm90.shape import Shape
from tests.dispatch.devices import ADA, AMPERE, CPU, HOPPER

SM90_DIMS = range(16, 257, 16)


def key_of(family, head_dim, tile, dtype="bf16"):
    return tiles.with_tile(DispatchKey("fwd", family, dtype, head_dim, "causal", 0, 0, 0), tile)


@pytest.mark.parametrize("head_dim", SM90_DIMS)
def test_the_model_of_sm90_is_the_kernels_arithmetic(head_dim):
    for block_m in (128, 192):
        for block_n in range(16, 257, 16):
            for stages in (1, 2, 3, 4):
                tile = Tile(block_m, block_n, stages)
                shape = Shape(key_of("sm90", head_dim, tile))
                assert shared_bytes("sm90", head_dim, tile) == shape.shared_bytes
                assert tiles.registers("sm90", head_dim, tile)[1] == shape.registers[1]


@pytest.mark.parametrize("tile", [Tile(64, 64, 1), Tile(32, 16, 1), Tile(16, 64, 1)])
@pytest.mark.parametrize("head_dim", [8, 72, 256])
def test_the_model_of_simt_is_the_kernels_arithmetic(head_dim, tile):
    source = make_forward(key_of("simt", head_dim, tile, "fp32"))
    assert shared_bytes("simt", head_dim, tile) == source.shared_bytes


def test_every_row_of_the_table_fits_by_the_model_and_has_an_origin():
    for row in TABLE:
        tile = Tile(row.block_m, row.block_n, row.stages)
        limit = {"sm90": HOPPER_BYTES, "simt": TURING_BYTES, "cpu": 0}[row.family]
        assert tiles.fits(row.family, row.head_dim, tile, limit), row
        assert row.origin.device and row.origin.command


@pytest.mark.parametrize(("family", "head_dim", "tile"), [
    ("sm90", 64, (192, 128, 4)), ("sm90", 128, (128, 128, 2)), ("sm90", 192, (128, 112, 2)), ("sm90", 256, (128, 80, 2)),
    ("simt", 64, (64, 64, 1)), ("cpu", 64, (128, 64, 1)), ("sm90", 272, None), ("sm91", 64, None),
])  # fmt: skip
def test_defaults(family, head_dim, tile):
    assert default_tile(family, head_dim) == (Tile(*tile) if tile else None)


@pytest.mark.parametrize("family", ["sm90", "simt"])
def test_defaults_fit_every_head_dim_and_are_candidates(family):
    for head_dim in SM90_DIMS if family == "sm90" else range(8, 257, 8):
        limit = HOPPER_BYTES if family == "sm90" else TURING_BYTES
        tile = default_tile(family, head_dim)
        assert tiles.fits(family, head_dim, tile, limit)
        assert tile in candidates(family, head_dim, limit)


def test_a_default_fits_the_memory_there_is():
    for limit in (24 << 10, 48 << 10, 64 << 10):
        assert shared_bytes("simt", 128, default_tile("simt", 128, limit)) <= limit
    assert default_tile("simt", 256, 8 << 10) is None


def test_a_key_without_a_row_gets_a_default(monkeypatch):
    monkeypatch.setattr(tuning, "TABLE", ())
    assert key_for("fwd", "sm90", "bf16", 128, "causal").slug == "fwd-sm90-bf16-d128-causal-m128n128s2"
    with pytest.raises(LookupError, match="no tile for sm91"):
        key_for("fwd", "sm91", "bf16", 128, "causal")


def test_a_row_that_does_not_fit_a_device_gives_way():
    key = key_of("simt", 64, Tile(128, 128, 1))
    assert shared_bytes("simt", 64, Tile(128, 128, 1)) > ADA.shared_bytes
    found = on_device(key, ADA)
    assert shared_bytes("simt", 64, tiles.tile_of(found)) <= TURING_BYTES
    assert on_device(key, AMPERE) == key  # there it fits


def test_tiles_that_fit_stay():
    for device in (HOPPER, AMPERE, ADA, CPU):
        for family in device.families:
            key = key_for("fwd", family, "bf16", 128, "causal")
            assert on_device(key, device) == key
