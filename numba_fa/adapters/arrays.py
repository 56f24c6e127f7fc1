"""Arrays of NumPy, torch, CuPy, JAX and Numba: their views, streams, and new arrays of the caller's kind.

A library is never imported here before one of its arrays arrives, at which point it is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView


@dataclass(frozen=True)
class Library:
    """How to use one library's arrays.

    view(array) -> ArrayView. stream(array) -> handle of the stream that the caller's work is on. empty(like, shape,
    dtype) -> new array beside `like`; dtype is an array library's name. finish(array) makes a result from an array
    that `empty` made (JAX alone needs it).
    """

    name: str
    view: Callable[[Any], ArrayView]
    stream: Callable[[Any], int]
    empty: Callable[[Any, tuple[int, ...], str], Any]
    finish: Callable[[Any], Any] = lambda array: array


def library_of(array: Any) -> Library:
    """The library that `array` belongs to; ProblemError when it is none that is known."""
    library = _BY_TYPE.get(type(array))
    if library is None:
        library = _BY_TYPE[type(array)] = _find(type(array))
    return library


def _find(kind: type) -> Library:
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        if root in _MAKERS and base is not object:
            return _MAKERS[root]()
    raise ProblemError([f"{kind.__module__}.{kind.__qualname__} is no array of NumPy, torch, CuPy, JAX or Numba"])


def _numpy() -> Library:
    import numpy as np

    def view(array: Any) -> ArrayView:
        size = array.dtype.itemsize
        strides = tuple(stride // size for stride in array.strides)
        flags = array.flags.writeable
        return ArrayView(array.ctypes.data, array.shape, strides, str(array.dtype), size, "cpu", flags)

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return np.empty(shape, like.dtype if str(like.dtype) == dtype else dtype)

    return Library("numpy", view, lambda array: 0, empty)


def _torch() -> Library:
    torch = sys.modules["torch"]
    names = {getattr(torch, name): name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
    names |= {torch.float32: "float32", torch.float16: "float16", torch.float64: "float64"}

    def view(array: Any) -> ArrayView:
        device = array.device
        where = "cpu" if device.type == "cpu" else f"{device.type}:{device.index}"
        shape, strides = tuple(array.shape), array.stride()
        return ArrayView(array.data_ptr(), shape, strides, names[array.dtype], array.element_size(), where)

    def stream(array: Any) -> int:
        return torch.cuda.current_stream(array.device).cuda_stream if array.is_cuda else 0

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)

    return Library("torch", view, stream, empty)


def _cuda_interface(array: Any, dtype: str, itemsize: int, device: str) -> ArrayView:
    """The view that an array's __cuda_array_interface__ describes."""
    interface = array.__cuda_array_interface__
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    if strides is None:
        return ArrayView(interface["data"][0], shape, dense_strides(shape), dtype, itemsize, device)
    steps = tuple(stride // itemsize for stride in strides)
    return ArrayView(interface["data"][0], shape, steps, dtype, itemsize, device, not interface["data"][1])


def _cupy() -> Library:
    cupy = sys.modules["cupy"]

    def view(array: Any) -> ArrayView:
        size = array.dtype.itemsize
        strides = tuple(stride // size for stride in array.strides)
        device = f"cuda:{array.device.id}"
        return ArrayView(array.data.ptr, array.shape, strides, str(array.dtype), size, device)

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        with like.device:
            return cupy.empty(shape, like.dtype if str(like.dtype) == dtype else dtype)

    return Library("cupy", view, lambda array: cupy.cuda.get_current_stream().ptr, empty)


def _numba() -> Library:
    from numba import cuda

    def view(array: Any) -> ArrayView:
        return _cuda_interface(array, str(array.dtype), array.dtype.itemsize, f"cuda:{cuda.get_current_device().id}")

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return cuda.device_array(shape, like.dtype if str(like.dtype) == dtype else dtype)

    # Numba's default stream is the legacy one, with which all others synchronise.
    return Library("numba", view, lambda array: 0, empty)


def _jax() -> Library:
    jax = sys.modules["jax"]

    def view(array: Any) -> ArrayView:
        array.block_until_ready()  # JAX runs ahead on streams of its own; it does not tell which
        (device,) = array.devices()
        where = "cpu" if device.platform == "cpu" else f"cuda:{device.local_hardware_id}"
        shape, size = tuple(array.shape), array.dtype.itemsize
        # A jax.Array is immutable; only the ones that `empty` made, which nobody else has seen, are written to.
        return ArrayView(array.unsafe_buffer_pointer(), shape, dense_strides(shape), str(array.dtype), size, where)

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        (device,) = like.devices()
        return jax.device_put(jax.numpy.empty(shape, dtype), device)

    def finish(array: Any) -> Any:
        (device,) = array.devices()
        if device.platform != "cpu":
            from numba_fa.build.driver import check

            check_stream(check)
        return array

    def check_stream(check: Any) -> None:
        from cuda.bindings import driver

        check((*driver.cuStreamSynchronize(0), None))

    return Library("jax", view, lambda array: 0, empty, finish)


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a C-contiguous array."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


_MAKERS: dict[str, Callable[[], Library]] = {
    "numpy": _numpy,
    "torch": _torch,
    "cupy": _cupy,
    "jax": _jax,
    "jaxlib": _jax,
    "numba": _numba,
}
_BY_TYPE: dict[type, Library] = {}
