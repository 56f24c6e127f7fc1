"""The table of a block mask, computed from the mask itself."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numba import get_num_threads, njit, types

from numba_fa.flash.program import Program, make_program
from numba_fa.kernels.cpu.hooks import OPTIONS, device, users_errors
from numba_fa.kernels.cpu.launch_arguments import PACKED, make_unpack, pack
from numba_fa.kernels.cpu.running import users_exceptions

_i = types.int64
_FILL = types.void(types.Array(types.int32, 4, "C"), _i, _i, _i, _i, _i, _i, PACKED)


def block_table(
    mask: str, tokens: tuple[str, ...], aux: tuple[Any, ...], *,
    batch: int, heads: int, seqlen_q: int, seqlen_k: int, block_m: int, block_n: int,
) -> np.ndarray:  # fmt: skip
    """int32 (batch, heads, tiles of block_m queries, tiles of block_n keys), as `flash/masks.py`'s block_reach reads it.

    Element [b, h, m, n] is 2 * t + whole for the last key tile t up to n in which some query of tile m sees a key, whole
    = 1 when every one of its queries sees every one of its keys, and -1 when there is none. mask: a key's text; aux: its
    launch arguments, of the kinds `tokens`, as for the forward. Exact: every element that `reach` and `whole` do not
    decide is looked at, and the user's functions see valid indices alone. CompileError for users' mistakes,
    FunctionError where their function raises.
    """
    fill, packed = _compiled(mask, tuple(tokens)), pack(tokens, aux)
    table = np.empty((batch, heads, -(-seqlen_q // block_m), -(-seqlen_k // block_n)), np.int32)
    threads = get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        shares = [pool.submit(fill, table, seqlen_q, seqlen_k, block_m, block_n, start, threads, packed)
                  for start in range(threads)]  # fmt: skip
    with users_exceptions(mask, "none", Exception):
        for share in shares:
            share.result()
    return table


@lru_cache(maxsize=1024)
def _compiled(mask: str, tokens: tuple[str, ...]) -> Any:
    with users_errors(mask, "none"):
        return _fill(make_program(mask, "none", device), make_unpack(tokens))


def _fill(program: Program, unpack: Any) -> Any:
    visible, reach, whole = program.visible, program.reach, program.whole

    @njit(**OPTIONS)
    def count_visible(batch, head, q_first, q_last, kv_first, kv_last, aux):
        """How many of these pairs of query and key are visible."""
        count = 0
        for i in range(q_first, q_last + 1):
            for j in range(kv_first, kv_last + 1):
                count += 1 if visible(batch, head, i, j, aux) else 0
        return count

    @njit(_FILL, **OPTIONS)
    def fill(table, seqlen_q, seqlen_k, block_m, block_n, start, step, packed):
        """Fill every step-th row of the table, from `start` on."""
        aux = unpack(packed)
        heads, rows = table.shape[1:3]
        for index in range(start, table.shape[0] * heads * rows, step):
            sequence, m = index // rows, index % rows
            batch, head = sequence // heads, sequence % heads
            q_first, q_last = m * block_m, min(m * block_m + block_m, seqlen_q) - 1
            entry = -1
            for n in range(table.shape[3]):
                first, last = n * block_n, min(n * block_n + block_n, seqlen_k) - 1
                if whole(batch, head, q_first, q_last, first, last, aux):
                    entry = 2 * n + 1
                elif reach(batch, head, q_first, q_last, last, aux) >= first:
                    seen = count_visible(batch, head, q_first, q_last, first, last, aux)
                    if seen > 0:
                        entry = 2 * n + (seen == (q_last + 1 - q_first) * (last + 1 - first))
                table[batch, head, m, n] = entry

    return fill
