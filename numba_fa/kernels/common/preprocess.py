"""Before a backward: of each query delta = sum(dO * O) - dLSE and its LSE in base 2; and zeros where dQ is summed up."""

from typing import Any

import numpy as np

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.convert import CONVERSIONS
from numba_fa.flash.online_softmax import LOG2_E, NEG_INF, ZERO
from numba_fa.jit import KernelSource, cuda, device, int32, int64
from numba_fa.kernels.common.signatures import PREPROCESS_SIGNATURE
from numba_fa.ptx.memory import st_global_f32
from numba_fa.ptx.order import grid_go_ahead
from numba_fa.ptx.vector import ld_global_f32, ld_global_u16, load_words, make_dot, store_zero
from numba_fa.ptx.warp import shfl_bfly

THREADS = 256
INFINITY = np.float32(np.inf)


def _element_by_element(dtype: str) -> tuple[Any, Any]:
    """(load(address) -> float32, their product)."""
    _, widen, _ = CONVERSIONS[dtype]
    load_element = ld_global_f32 if dtype == "fp32" else ld_global_u16

    @device
    def load(address):
        return widen(load_element(address))

    @device
    def product(a, b):
        return a * b

    return load, product


def make_preprocess(key: DispatchKey) -> KernelSource:
    """The preprocess for tiles of key.block_m queries; a block (tile, head, batch index) makes one of them.

    Its parameters: pointers to O, dO, LSE (natural, float32 (batch, heads, seqlen_q)), dLSE (alike, or 0), to the result
    (float32 (batch, heads, tiles, 2, block_m): LSE in base 2, delta) and to what is to be zeroed (0: nothing); strides in
    bytes of O's and of dO's axes batch, seqlen and heads; heads, seqlen_q, head_dim_v; bytes a tile of what is zeroed;
    pointer to an int32 a tile to be zeroed too (0: none). Rows of O and dO are whole multiples of 16 bytes and lie so,
    except for family "simt", which takes any alignment and reads element by element.

    A row that sees nothing (LSE -inf) and rows past the end get LSE +inf, so that exp2(score - LSE) is 0, and delta 0.
    """
    BLOCK_M, ITEM, ANYWHERE = key.block_m, 4 if key.dtype == "fp32" else 2, key.family == "simt"
    HOPPER = key.family == "sm90"
    PIECE = 1 if ANYWHERE else 16 // ITEM  # elements a load
    LANES = 16 if ANYWHERE else 4  # threads that share a row, so that a warp's loads are of whole sectors
    while LANES < 32 and LANES * PIECE < key.head_dim_v:
        LANES *= 2
    STRIDE = LANES * PIECE
    ROWS, PARTS = THREADS // LANES, -(-key.head_dim_v // STRIDE)
    load, dot = _element_by_element(key.dtype) if ANYWHERE else (load_words, make_dot(key.dtype))

    @device
    def over_lanes(value):
        mask = int32(1)
        while mask < LANES:
            value = value + shfl_bfly(value, mask)
            mask = int32(mask * 2)
        return value

    def preprocess(o, do, lse, dlse, rows, zeroed, o_batch, o_row, o_head, do_batch, do_row, do_head, heads, seqlen_q,
                   head_dim_v, tile_bytes, tickets):  # fmt: skip
        if HOPPER:  # what comes next waits for all this by itself
            grid_go_ahead()
        thread = int32(cuda.threadIdx.x)
        tile, head, index = int32(cuda.blockIdx.x), int32(cuda.blockIdx.y), int32(cuda.blockIdx.z)
        number = int64(index * heads + head) * cuda.gridDim.x + tile
        lane = thread % LANES
        place = rows + number * (BLOCK_M * 8)
        o += index * o_batch + head * o_head
        do += index * do_batch + head * do_head
        sources = int64(index * heads + head) * seqlen_q * 4
        for turn in range(BLOCK_M // ROWS):
            row = int32(turn * ROWS + thread // LANES)
            q_idx = int32(tile * BLOCK_M + row)
            total = ZERO
            for part in range(PARTS):
                column = int32(part * STRIDE + lane * PIECE)
                if q_idx < seqlen_q and column < head_dim_v:
                    at = int64(q_idx) * o_row + column * ITEM
                    do_at = int64(q_idx) * do_row + column * ITEM
                    total += dot(load(o + at), load(do + do_at))
            total = over_lanes(total)
            if lane == 0:
                natural = NEG_INF
                if q_idx < seqlen_q:
                    natural = ld_global_f32(lse + sources + q_idx * 4)
                    if dlse != 0:
                        total -= ld_global_f32(dlse + sources + q_idx * 4)
                empty = natural == NEG_INF
                st_global_f32(place + row * 4, INFINITY if empty else natural * LOG2_E)
                st_global_f32(place + (BLOCK_M + row) * 4, ZERO if empty else total)
        if tickets != 0 and thread == 0:
            st_global_f32(tickets + number * 4, ZERO)
        if zeroed != 0:
            offset = int32(thread * 16)
            while offset < tile_bytes:
                store_zero(zeroed + number * tile_bytes + offset)
                offset = int32(offset + THREADS * 16)

    return KernelSource(preprocess, PREPROCESS_SIGNATURE, THREADS, 0)
