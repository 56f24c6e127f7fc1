"""block_mask: look at a mask once, so that calls skip the blocks it hides and do not mask the blocks it shows whole."""

from __future__ import annotations

from typing import Any

from numba_fa.adapters.arrays import library_of
from numba_fa.adapters.library import Library
from numba_fa.dispatch.device import device_of
from numba_fa.errors import ProblemError
from numba_fa.prepared import loaded
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.masks import BlockMask, Mask, mask_named
from numba_fa.problem.problem import CallSizes

_MOST_BLOCK = 1 << 12  # a block's elements are counted exactly in float32


def block_mask(
    mask: Mask | str, *, batch: int = 1, heads: int = 1, seqlen_q: int, seqlen_k: int, like: Any = None,
    block_size: tuple[int, int] = (128, 128),
) -> BlockMask:  # fmt: skip
    """`mask` with a table of its blocks, to be passed as `attention(..., mask=...)` for as long as its arrays keep their
    values: blocks that hide every key are neither loaded nor computed, blocks that hide none are not masked.

    mask: any mask. batch, heads: those that the mask differs in; 1 where it does not (and a function of b or h then sees
    0). like: an array of the library and device that the table shall be of; by default the mask's first array. With
    neither, a NumPy table. block_size: queries and keys of a block, powers of two up to 4096; kernels of any tile size use
    it.

    The table takes 4 * batch * heads * ceil(seqlen_q / 128) * ceil(seqlen_k / 128) bytes at the default block size, on
    the device, enqueued on the current stream.

    Raises ProblemError listing every fault of the arguments. Method: FlexAttention's block mask (Dong et al. 2024).
    """
    chosen = mask_named(mask)
    if chosen is None:
        raise ProblemError([f"mask is {mask!r}; a mask or its name is wanted"])
    example = like if like is not None else next((array for _, array in chosen.arrays), None)
    if example is None:
        import numpy as np

        example = np.empty(0, np.int32)
    library = library_of(example)
    viewed = chosen.viewed(lambda array: library_of(array).view(array))
    sizes = CallSizes(batch, seqlen_q, seqlen_k, heads, library.view(example).device)
    _check(viewed, sizes, block_size)
    block_m, block_n = block_size
    table = library.empty(example, (batch, heads, -(-seqlen_q // block_m), -(-seqlen_k // block_n)), "int32")
    _fill(library, library.view(table), viewed, sizes, block_size, library.stream(example))
    library.wrote(table)
    return BlockMask(library.finish(table), chosen, (block_m, block_n), (seqlen_q, seqlen_k))


def _check(mask: Mask, sizes: CallSizes, block_size: tuple[int, int]) -> None:
    faults = [
        f"{name} is {value}; at least 1 is wanted"
        for name, value in sizes._asdict().items()
        if name != "device" and (not isinstance(value, int) or value < 1)
    ]
    wrong = [n for n in block_size if not isinstance(n, int) or not 1 <= n <= _MOST_BLOCK or n & (n - 1)]
    if len(block_size) != 2 or wrong:
        faults.append(f"block_size is {block_size}; two powers of two from 1 to {_MOST_BLOCK} are wanted")
    faults = faults or mask.faults(sizes)
    if "block" in mask.kinds:
        faults.append("the mask holds a block mask already")
    if faults:
        raise ProblemError(faults)


def _fill(
    library: Library, table: ArrayView, mask: Mask, sizes: CallSizes, block_size: tuple[int, int], stream: int
) -> None:
    arguments = mask.arguments(sizes)
    device = device_of(sizes.device)
    if device.arch == "cpu":
        from numba_fa.kernels.cpu.block_table import block_table
        from numba_fa.kernels.cpu.variant import numpy_arguments, numpy_view

        block_m, block_n = block_size
        numpy_view(table)[...] = block_table(
            mask.name, mask.tokens, numpy_arguments(arguments), batch=sizes.batch, heads=sizes.heads,
            seqlen_q=sizes.seqlen_q, seqlen_k=sizes.seqlen_k, block_m=block_m, block_n=block_n,
        )  # fmt: skip
        return
    from numba_fa.build.launch import make_launch
    from numba_fa.kernels.common.variant import BLOCK_TABLE, SIGNATURE, block_key

    kernel = loaded(block_key(mask.name), BLOCK_TABLE, device)
    grid = (table.shape[2], sizes.heads, sizes.batch)
    launch = make_launch(kernel, SIGNATURE + mask.tokens, grid, device)
    launch((table, sizes.seqlen_q, sizes.seqlen_k, *block_size, *arguments), stream)
