"""Probes of copies between global and shared memory: boxes, swizzle, zero fill, clipping, and fragments stored."""

import ml_dtypes
import numpy as np

from numba_fa.jit import KernelSource, cuda, device, float32, int32, uint8
from numba_fa.ptx.fragment import make_stmatrix
from numba_fa.ptx.mbarrier import fence_mbarrier_init, mbarrier_expect_tx, mbarrier_init, mbarrier_wait
from numba_fa.ptx.memory import ld_shared_u32, shared_address, st_shared_u32
from numba_fa.ptx.tma import (
    bulk_commit_group,
    bulk_wait_group,
    bulk_wait_group_read,
    fence_proxy_async,
    prefetch_tensormap,
    tensor_map,
    tma_load,
    tma_store,
)
from tests.gpu.probe import Box, Probe
from tests.gpu.probe_tools import dump_shared, make_gather

SHAPE = (2, 21, 3, 72)  # batch, seqlen, heads, head_dim: 72 columns are an atom and a piece of the next
ROWS = 16
BOX_BYTES = ROWS * 128
# Column, row, head, batch of a box: inside, across each edge, outside. No two share an element: stores finish in any order.
PLACES = np.array(
    [[0, 0, 0, 0], [64, 2, 1, 1], [0, 13, 2, 1], [64, 20, 0, 0], [0, -3, 1, 0], [-8, 4, 2, 0], [0, 21, 0, 0], [128, 0, 0, 0],
     [0, 0, 3, 0], [0, 0, 0, 2], [0, 0, -1, 0], [56, 10, 0, 1]]
)  # fmt: skip


def tensor():
    """A float16 array of distinct patterns."""
    return np.arange(np.prod(SHAPE), dtype=np.uint16).view(np.float16).reshape(SHAPE)


def swizzled(box):
    """A box (rows, 64) of 16-bit words as it lies in shared memory: chunk j of row i at j ^ (i % 8)."""
    rows = box.shape[0]
    chunks = box.reshape(rows, 8, 8)
    order = np.arange(8)[None, :] ^ (np.arange(rows)[:, None] % 8)
    return chunks[np.arange(rows)[:, None], order].reshape(-1)


def overlap(words, place):
    """(index of the box, index of the tensor) where a box at `place` and the tensor meet."""
    column, row, head, batch = place
    inside = [(c, column + c) for c in range(64) if 0 <= column + c < words.shape[3]]
    rows = [(r, row + r) for r in range(ROWS) if 0 <= row + r < words.shape[1]]
    if not (inside and rows and 0 <= head < words.shape[2] and 0 <= batch < words.shape[0]):
        return None
    (r, s), (c, d) = zip(*rows), zip(*inside)
    return np.ix_(r, c), (batch, np.array(s)[:, None], head, np.array(d)[None, :])


def load_probe():
    """Every box, one after another through the same room, as the bytes lie."""
    loads = len(PLACES)

    def kernel(source, places, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 1023) & ~1023)
        barrier = int32(base + BOX_BYTES)
        thread = int32(cuda.threadIdx.x)
        if thread == 0:
            prefetch_tensormap(tensor_map(source))
            mbarrier_init(barrier, 1)
            fence_mbarrier_init()
        cuda.syncthreads()
        for i in range(loads):
            if thread == 0:
                mbarrier_expect_tx(barrier, BOX_BYTES)
                tma_load(base, tensor_map(source), barrier, int32(places[4 * i]), int32(places[4 * i + 1]),
                         int32(places[4 * i + 2]), int32(places[4 * i + 3]))  # fmt: skip
            mbarrier_wait(barrier, i & 1)
            dump_shared(out, i * ROWS * 64, base, BOX_BYTES // 4)
            cuda.syncthreads()

    array = tensor()
    words = array.view(np.uint16)
    boxes = np.zeros((loads, ROWS, 64), np.uint16)
    for box, place in zip(boxes, PLACES, strict=True):
        found = overlap(words, place)
        if found:
            box[found[0]] = words[found[1]]
    truth = np.stack([swizzled(box) for box in boxes])
    source = KernelSource(kernel, ("tensor_map", "float32*", "uint16*"), 64, 1024 + BOX_BYTES + 8)
    out = np.full_like(truth, 7)
    yield Probe("tma_load", source, [Box(array, ROWS), PLACES.astype(np.float32), out], {2: truth})


def store_probe():
    """Boxes from words that threads wrote; rows and columns past the tensor's end stay away.

    No kernel stores at a negative place or beyond the last head or batch, and this one does not either.
    """
    allowed = PLACES[(PLACES >= 0).all(1) & (PLACES[:, 2] < SHAPE[2]) & (PLACES[:, 3] < SHAPE[0])]
    stores = len(allowed)

    def kernel(target, places):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 1023) & ~1023)
        thread = int32(cuda.threadIdx.x)
        for i in range(stores):
            for word in range(thread, BOX_BYTES // 4, cuda.blockDim.x):
                st_shared_u32(int32(base + 4 * word), (i * 4096 + 2 * word + 1) << 16 | (i * 4096 + 2 * word))
            fence_proxy_async()
            cuda.syncthreads()
            if thread == 0:
                tma_store(tensor_map(target), base, int32(places[4 * i]), int32(places[4 * i + 1]),
                          int32(places[4 * i + 2]), int32(places[4 * i + 3]))  # fmt: skip
                bulk_commit_group()
                bulk_wait_group_read()
            cuda.syncthreads()
        if thread == 0:
            bulk_wait_group()

    array = tensor()
    words = array.view(np.uint16).copy()
    for i, place in enumerate(allowed):
        found = overlap(words, place)
        if found:
            # The swizzle is its own inverse.
            physical = (np.arange(ROWS * 64) + i * 4096).astype(np.uint16)
            words[found[1]] = swizzled(physical.reshape(ROWS, 64)).reshape(ROWS, 64)[found[0]]
    source = KernelSource(kernel, ("tensor_map", "float32*"), 64, 1024 + BOX_BYTES)
    yield Probe("tma_store", source, [Box(array, ROWS), allowed.astype(np.float32)], {0: words.view(np.float16)})


def stmatrix_probes():
    """Four warps store fragments of 64 x 128 values into two atoms; then half of each into the second again."""
    columns, atom = 128, 64 * 128
    count = columns // 2
    gather = make_gather(count)
    rng = np.random.default_rng(5)
    tile = rng.standard_normal((64, columns)).astype(np.float32)
    thread, register = np.arange(128)[:, None], np.arange(count)[None, :]
    row = thread // 32 * 16 + thread % 32 // 4 + 8 * (register // 2 % 2)
    fragments = tile[row, register // 4 * 8 + thread % 4 * 2 + register % 2]
    for dtype, half in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        source = KernelSource(_stmatrix_kernel(count, atom, gather, dtype), ("float32*", "uint16*"), 128, 1024 + 2 * atom)
        words = tile.astype(half).view(np.uint16)
        truth = np.concatenate([swizzled(words[:, :64]), swizzled(words[:, 64:])])
        yield Probe(f"stmatrix_{dtype}", source, [fragments, np.full_like(truth, 7)], {1: truth})


def _stmatrix_kernel(count, atom, gather, dtype):
    stmatrix, stmatrix_rest = make_stmatrix(count, dtype), make_stmatrix(count // 2, dtype, count // 2)

    def kernel(source, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 1023) & ~1023)
        thread = int32(cuda.threadIdx.x)
        lane, row = thread & 31, (thread >> 5) * 16 + (thread & 15)
        fragment = gather(source, thread * count)
        stmatrix(fragment, int32(base + row * 128), atom, row & 7, lane >> 4)
        cuda.syncthreads()
        stmatrix_rest(fragment, int32(base + atom + row * 128), atom, row & 7, lane >> 4)
        cuda.syncthreads()
        dump_shared(out, 0, base, 2 * atom // 4)

    return kernel


def words_probe():
    """Words stored backwards, read by other threads; negative ones and big ones."""

    @device
    def word_of(i):
        return (i - 32) * 12345678

    def kernel(out):
        base = int32(shared_address(cuda.shared.array(0, uint8)))
        thread = int32(cuda.threadIdx.x)
        st_shared_u32(int32(base + 4 * (63 - thread)), word_of(thread))
        cuda.syncthreads()
        word = ld_shared_u32(int32(base + 4 * thread))
        out[2 * thread] = float32(word >> 12)  # float32 holds 24 bits
        out[2 * thread + 1] = float32(word & 0xFFF)

    words = (31 - np.arange(64)) * 12345678
    truth = np.stack([words >> 12, words & 0xFFF], axis=1).astype(np.float32)
    yield Probe("words", KernelSource(kernel, ("float32*",), 64, 256), [np.full_like(truth, 7)], {0: truth})


def probes():
    yield from load_probe()
    yield from store_probe()
    yield from stmatrix_probes()
    yield from words_probe()
