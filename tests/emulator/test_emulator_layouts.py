"""Fragments, swizzled operands, boxes and stores against plain matrices."""

import ml_dtypes
import numpy as np
import pytest

from numba_fa.emulator import EmulationError, HazardError, TensorMap
from numba_fa.emulator.order import Order
from numba_fa.emulator.shared import SharedMemory, swizzle_128
from numba_fa.emulator.tensor_core import (
    decode,
    fragment_places,
    fragments_of,
    half_to_float32,
    k_major,
    mn_major,
    tile_of,
    words_of,
)
from numba_fa.tile.layout import k_major_descriptor, k_major_step, mn_major_descriptor, mn_major_step

BASE = 0x400


def shared_tile(words):
    """Shared memory from BASE on that holds a (rows, columns) uint16 matrix as 64-column atoms.

    Swizzled by the manual's rule, chunk by chunk: chunk j of row i lies at j ^ (i % 8).
    """
    rows, columns = words.shape
    shared = SharedMemory(BASE, columns // 64 * rows * 128, Order(8))
    for i in range(rows):
        for j in range(columns // 8):
            at = BASE + j // 8 * rows * 128 + i * 128 + ((j % 8) ^ (i % 8)) * 16
            shared.land(np.array([at >> 4]), words[i, 8 * j : 8 * j + 8].view(np.uint8)[None], 8, 1)
    return shared


def test_swizzle_is_its_own_inverse_and_keeps_rows():
    address = np.arange(0, 4096, 16)
    physical = swizzle_128(address)
    assert sorted(physical) == list(address)
    assert np.array_equal(swizzle_128(physical), address)
    assert np.array_equal(physical // 128, address // 128)
    assert list(physical[8:16]) == [128 + 16 * (j ^ 1) for j in range(8)]


@pytest.mark.parametrize("columns", [8, 16, 48, 128, 256])
def test_fragments_round_trip(columns):
    tile = np.arange(64 * columns).reshape(64, columns)
    fragments = fragments_of(tile)
    assert fragments.shape == (128, columns // 2)
    assert np.array_equal(tile_of(fragments), tile)


def test_fragment_places_of_the_manual():
    """PTX ISA, accumulator of m64nN: thread 37 (warp 1, lane 5) holds rows 17 and 25, columns 2, 3, 10, 11, ..."""
    row, column = fragment_places(16)
    assert list(row[37]) == [17, 17, 25, 25, 17, 17, 25, 25]
    assert list(column[37]) == [2, 3, 2, 3, 10, 11, 10, 11]


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (64, 128), (128, 192)])
def test_k_major_operand(rows, columns):
    words = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns)
    shared = shared_tile(words)
    start = k_major_descriptor() | BASE >> 4
    descriptors = [start + k_major_step(k, rows * 128) for k in range(columns // 16)]
    assert np.array_equal(words_of(shared, k_major(shared, descriptors, rows)), words)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (128, 128), (80, 256)])
def test_mn_major_operand(rows, columns):
    words = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns)
    shared = shared_tile(words)
    start = mn_major_descriptor(rows * 128) | BASE >> 4
    descriptors = [start + mn_major_step(k) for k in range(rows // 16)]
    assert np.array_equal(words_of(shared, mn_major(shared, descriptors, columns)), words)


def test_descriptor_without_swizzle_is_refused():
    with pytest.raises(EmulationError, match="128-byte swizzle"):
        decode(k_major_descriptor() & ~(1 << 62))


@pytest.mark.parametrize(("name", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_half_to_float32_is_exact(name, dtype):
    words = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(half_to_float32(words, name), words.view(dtype).astype(np.float32))


def test_box_fills_with_zeros_and_clips():
    array = np.arange(2 * 5 * 3 * 8, dtype=np.uint16).reshape(2, 5, 3, 8)
    tensor = TensorMap(array, 4, 64)
    box = tensor.read(0, 3, 2, 1)
    assert np.array_equal(box[:2, :8], array[1, 3:, 2])
    assert not box[2:].any() and not box[:, 8:].any()
    assert not tensor.read(0, 5, 0, 0).any()
    before = array.copy()
    tensor.write(np.full((4, 64), 7, np.uint16), 0, 3, 2, 1)
    before[1, 3:, 2] = 7
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "box"),
    [
        (np.zeros((1, 4, 1, 8), np.float32), (4, 64)),
        (np.zeros((1, 4, 2, 4), np.float16), (4, 64)),
        (np.zeros((1, 0, 1, 8), np.float16), (4, 64)),
        (np.zeros((1, 4, 1, 8), np.float16), (4, 32)),
        (np.zeros((1, 4, 1, 8), np.float16), (257, 64)),
    ],
)
def test_impossible_tensor_maps_are_refused(array, box):
    with pytest.raises(ValueError):
        TensorMap(array, *box)


def test_shared_memory_tells_what_may_be_read():
    shared = SharedMemory(BASE, 64, Order(8))
    chunks = np.array([BASE >> 4])
    with pytest.raises(HazardError, match="nothing has written"):
        shared.require(chunks, "test", [5])
    shared.write_generic(chunks, np.zeros((1, 16), np.uint8), np.array([5]), "test")
    shared.fence(4)
    with pytest.raises(HazardError, match="fence"):
        shared.require(chunks, "test", [5])
    shared.fence(5)
    shared.require(chunks, "test", [5])
    shared.begin_load(chunks, "test", 5)
    with pytest.raises(HazardError, match="in flight"):
        shared.require(chunks, "test", [5])
    with pytest.raises(EmulationError, match="outside"):
        shared.numbers(np.array([BASE + 64]), "test")
