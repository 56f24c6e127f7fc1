"""Arrays of NumPy, torch, CuPy, JAX and Numba: their views, streams, and new arrays of the caller's kind.

A library is never imported here before one of its arrays arrives, at which point it is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from numba_fa.adapters import torch
from numba_fa.adapters.library import Library
from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView, dense_strides


def library_of(array: Any) -> Library:
    """The library that `array` belongs to; ProblemError when it is none that is known."""
    return LIBRARIES[type(array)]


def _find(kind: type) -> Library:
    name = f"{kind.__module__}.{kind.__qualname__}"
    for base in kind.__mro__:
        maker = _MAKERS.get(base.__module__.partition(".")[0])
        if maker is None:
            continue
        library = maker()
        for unfit, reason in library.unfit.items():
            if issubclass(kind, unfit):
                raise ProblemError([f"{name} {reason}"])
        if library.holds(kind):
            return library
    raise ProblemError([f"{name} is no array of NumPy, torch, CuPy, JAX or Numba"])


def _steps(strides: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in elements, from bytes; ProblemError where that is no whole number."""
    if any(stride % itemsize for stride in strides):
        raise ProblemError([f"strides of {strides} bytes; multiples of an element's {itemsize} bytes are wanted"])
    return tuple(stride // itemsize for stride in strides)


@cache
def _numpy() -> Library:
    import numpy as np

    def view(array: Any) -> ArrayView:
        size = array.dtype.itemsize
        strides = _steps(array.strides, size)
        flags = array.flags.writeable
        return ArrayView(array.ctypes.data, array.shape, strides, str(array.dtype), size, "cpu", flags)

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return np.empty(shape, like.dtype if str(like.dtype) == dtype else dtype)

    unfit: dict[type, str] = {
        np.ma.MaskedArray: "hides elements, which attention would read all the same; pass its filled() array",
    }
    def holds(kind: type) -> bool:
        return issubclass(kind, np.ndarray)

    return Library("numpy", view, lambda array: 0, empty, holds, unfit)


def _cuda_interface(array: Any, dtype: str, itemsize: int, device: str) -> ArrayView:
    """The view that an array's __cuda_array_interface__ describes."""
    interface = array.__cuda_array_interface__
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    steps = dense_strides(shape) if strides is None else _steps(strides, itemsize)
    pointer, read_only = interface["data"]
    return ArrayView(pointer, shape, steps, dtype, itemsize, device, not read_only)


@cache
def _cupy() -> Library:
    cupy = sys.modules["cupy"]

    def view(array: Any) -> ArrayView:
        size = array.dtype.itemsize
        strides = _steps(array.strides, size)
        device = f"cuda:{array.device.id}"
        return ArrayView(array.data.ptr, array.shape, strides, str(array.dtype), size, device)

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        with like.device:
            return cupy.empty(shape, like.dtype if str(like.dtype) == dtype else dtype)

    def holds(kind: type) -> bool:
        return issubclass(kind, cupy.ndarray)

    def stream(array: Any) -> int:
        return cupy.cuda.get_current_stream(array.device.id).ptr

    return Library("cupy", view, stream, empty, holds)


@cache
def _numba() -> Library:
    from numba import cuda

    def view(array: Any) -> ArrayView:
        return _cuda_interface(array, str(array.dtype), array.dtype.itemsize, f"cuda:{cuda.get_current_device().id}")

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return cuda.device_array(shape, like.dtype if str(like.dtype) == dtype else dtype)

    # Numba's default stream is the legacy one, with which all others synchronise.
    def holds(kind: type) -> bool:
        return hasattr(kind, "__cuda_array_interface__")

    return Library("numba", view, lambda array: 0, empty, holds)


@cache
def _jax() -> Library:
    jax = sys.modules["jax"]

    def view(array: Any) -> ArrayView:
        if array.is_deleted():
            raise ProblemError(["a JAX array whose memory was deleted or donated"])
        devices = array.devices()
        if len(devices) > 1:
            raise ProblemError([f"a JAX array sharded over {len(devices)} devices; one on a single device is wanted"])
        (device,) = devices
        array.block_until_ready()  # JAX runs ahead on streams of its own; it does not tell which
        where = "cpu" if device.platform == "cpu" else f"cuda:{device.local_hardware_id}"
        shape, size = tuple(array.shape), array.dtype.itemsize
        # A jax.Array is immutable; only the ones that `empty` made, which nobody else has seen, are written to.
        pointer, strides = array.unsafe_buffer_pointer(), dense_strides(shape)
        return ArrayView(pointer, shape, strides, str(array.dtype), size, where, writable=False)

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        (device,) = like.devices()
        return jax.device_put(jax.numpy.empty(shape, dtype), device)

    def finish(array: Any) -> Any:
        (device,) = array.devices()
        if device.platform != "cpu":
            from cuda.bindings import driver

            from numba_fa.build.driver import check, made_current

            with made_current(device.local_hardware_id):
                check(driver.cuStreamSynchronize(0))
        return array

    def holds(kind: type) -> bool:
        return hasattr(kind, "unsafe_buffer_pointer")

    unfit = {jax.core.Tracer: "stands for values that are not there yet; call attention outside jit, grad and vmap"}
    return Library("jax", view, lambda array: 0, empty, holds, unfit, finish)


_MAKERS: dict[str, Callable[[], Library]] = {
    "numpy": _numpy,
    "torch": torch.library,
    "cupy": _cupy,
    "jax": _jax,
    "jaxlib": _jax,
    "numba": _numba,
}


class _Libraries(dict[type, Library]):
    """Libraries by the type of an array, found out at a type's first sight."""

    def __missing__(self, kind: type) -> Library:
        library = self[kind] = _find(kind)
        return library


LIBRARIES: dict[type, Library] = _Libraries()
