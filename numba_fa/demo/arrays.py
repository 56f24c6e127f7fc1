"""numba_fa.attention for an encoder in NumPy: on the first GPU where there is one, else where the arrays are."""

from __future__ import annotations

import numpy as np


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`numba_fa.attention` of NumPy arrays (batch, seqlen, heads, head_dim), to (out, lse) as NumPy arrays."""
    import numba_fa

    arrays = [to_device(array) for array in (q, k, v)]
    return tuple(from_device(array) for array in numba_fa.attention(*arrays, return_lse=True))  # type: ignore[return-value]


def family(dtype: np.dtype, heads: int, head_dim: int) -> str:
    """The kernel family that computes such arrays here: "cpu", "simt" or "sm90"."""
    import numba_fa

    probe = to_device(np.zeros((1, 8, heads, head_dim), dtype))
    return numba_fa.explain(probe, probe, probe).family


def to_device(array: np.ndarray):
    """The array on the first GPU, as a Numba device array; itself where there is no GPU."""
    from numba_fa.build.driver import device_count

    if not device_count():
        return array
    from numba import cuda

    return cuda.to_device(np.ascontiguousarray(array))


def from_device(array) -> np.ndarray:
    """A NumPy array of the values."""
    return array if isinstance(array, np.ndarray) else array.copy_to_host()
