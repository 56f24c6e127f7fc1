"""Device functions that probes share: fragments from and to global memory, shared memory to global memory."""

from functools import lru_cache

from numba_fa.jit import cuda, device, int32, uint16
from numba_fa.ptx.memory import ld_shared_u32


@lru_cache
def make_gather(count):
    """gather(source, at) -> the fragment source[at : at + count]."""
    items = ", ".join(f"source[at + {i}]" for i in range(count))
    return _define(f"def gather(source, at):\n    return ({items},)", "gather")


@lru_cache
def make_scatter(count):
    """scatter(out, at, fragment): out[at : at + count] = fragment."""
    lines = [f"    out[at + {i}] = fragment[{i}]" for i in range(count)]
    return _define("\n".join(["def scatter(out, at, fragment):", *lines]), "scatter")


@lru_cache
def make_scatter_words(count):
    """scatter_words(out, at, words): the halves of `count` 32-bit words, lower first, as 16-bit elements."""
    lines = [
        f"    out[at + {2 * i + half}] = uint16((words[{i}] >> {16 * half}) & 0xFFFF)"
        for i in range(count)
        for half in (0, 1)
    ]
    return _define("\n".join(["def scatter_words(out, at, words):", *lines]), "scatter_words")


@device
def dump_shared(out, at, address, words):
    """The block copies `words` 32-bit words of shared memory to 16-bit elements, as they lie."""
    for i in range(cuda.threadIdx.x, words, cuda.blockDim.x):
        word = ld_shared_u32(int32(address + 4 * i))
        out[at + 2 * i] = uint16(word & 0xFFFF)
        out[at + 2 * i + 1] = uint16((word >> 16) & 0xFFFF)


def _define(code, name):
    scope = {"uint16": uint16}
    exec(code, scope)
    return device(scope[name])
