"""An array as plain numbers: all that dispatch, descriptors and launches need of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArrayView:
    """Where an array lies. It owns nothing: the caller keeps the array alive.

    pointer: address of element (0, ..., 0). shape, strides: in elements. dtype: the array libraries' name
    ("bfloat16"). device: "cpu" or "cuda:N".
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    itemsize: int
    device: str
    writable: bool = True

    @property
    def alignment(self) -> int:
        """The largest power of two up to 16 that divides the address and every stride but the last, in bytes.

        An axis of length 1 does not count; a zero or negative stride counts as one element, because no tensor
        map can describe it.
        """
        bits = self.pointer
        for length, stride in zip(self.shape[:-1], self.strides[:-1], strict=True):
            if length > 1:
                bits |= (stride if stride > 0 else 1) * self.itemsize
        return min(16, bits & -bits) if bits else 16

    @property
    def contiguous_last(self) -> bool:
        """Whether neighbouring elements of the last axis are neighbours in memory; so they are where there are none."""
        return self.strides[-1] == 1 or self.shape[-1] <= 1 or 0 in self.shape


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a C-contiguous array."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))
