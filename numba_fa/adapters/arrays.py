"""Arrays of NumPy, torch, CuPy, JAX and Numba: their views, streams, and new arrays of the caller's kind.

A library is never imported here before one of its arrays arrives, at which point it is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView


@dataclass(frozen=True)
class Library:
    """How to use one library's arrays.

    view(array) -> ArrayView. stream(array) -> handle of the stream that the caller's work is on. empty(like, shape,
    dtype) -> new array beside `like`; dtype is an array library's name. finish(array) makes a result from an array
    that `empty` made (JAX alone needs it). holds(type) tells its arrays' types from its others; unfit maps a type of
    arrays that attention would read wrongly to the reason. wants_grad(array): whether a gradient is to be recorded.
    wrote(array) tells the library that a caller's array was written.

    view raises ProblemError for an array that no ArrayView describes.
    """

    name: str
    view: Callable[[Any], ArrayView]
    stream: Callable[[Any], int]
    empty: Callable[[Any, tuple[int, ...], str], Any]
    holds: Callable[[type], bool]
    unfit: Mapping[type, str] = field(default_factory=dict)
    finish: Callable[[Any], Any] = lambda array: array
    wants_grad: Callable[[Any], bool] = lambda array: False
    wrote: Callable[[Any], None] = lambda array: None


def library_of(array: Any) -> Library:
    """The library that `array` belongs to; ProblemError when it is none that is known."""
    library = _BY_TYPE.get(type(array))
    if library is None:
        library = _BY_TYPE[type(array)] = _find(type(array))
    return library


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
    return Library("numpy", view, lambda array: 0, empty, lambda kind: issubclass(kind, np.ndarray), unfit)


@cache
def _torch() -> Library:
    torch = sys.modules["torch"]
    names = {getattr(torch, name): name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
    strided = torch.strided
    names |= {torch.float32: "float32", torch.float16: "float16", torch.float64: "float64"}

    def view(array: Any) -> ArrayView:
        if array.layout is not strided or array.is_neg():
            raise ProblemError([f"a tensor of layout {array.layout}{' that negates when read' * array.is_neg()}; "
                                "a plain strided one is wanted"])  # fmt: skip
        device = array.device
        where = device.type
        if where == "cuda":
            where = f"cuda:{device.index}"
        elif where != "cpu":
            raise ProblemError([f"a tensor on device {device}; allowed: cpu, cuda"])
        shape, strides = tuple(array.shape), array.stride()
        return ArrayView(array.data_ptr(), shape, strides, names[array.dtype], array.element_size(), where)

    def stream(array: Any) -> int:
        return torch.cuda.current_stream(array.device).cuda_stream if array.is_cuda else 0

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)

    def wants_grad(array: Any) -> bool:
        return array.requires_grad and torch.is_grad_enabled()

    def wrote(array: Any) -> None:
        if not array.is_inference():  # such a tensor counts no versions
            torch.autograd.graph.increment_version(array)

    def holds(kind: type) -> bool:
        return issubclass(kind, torch.Tensor)

    return Library("torch", view, stream, empty, holds, wants_grad=wants_grad, wrote=wrote)


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

    return Library("cupy", view, lambda array: cupy.cuda.get_current_stream().ptr, empty, holds)


@cache
def _numba() -> Library:
    from numba import cuda

    def view(array: Any) -> ArrayView:
        return _cuda_interface(array, str(array.dtype), array.dtype.itemsize, f"cuda:{cuda.get_current_device().id}")

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return cuda.device_array(shape, like.dtype if str(like.dtype) == dtype else dtype)

    # Numba's default stream is the legacy one, with which all others synchronise.
    return Library("numba", view, lambda array: 0, empty, lambda kind: hasattr(kind, "__cuda_array_interface__"))


@cache
def _jax() -> Library:
    jax = sys.modules["jax"]

    def view(array: Any) -> ArrayView:
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
            from numba_fa.build.driver import check

            check_stream(check)
        return array

    def check_stream(check: Any) -> None:
        from cuda.bindings import driver

        check((*driver.cuStreamSynchronize(0), None))

    def holds(kind: type) -> bool:
        return hasattr(kind, "unsafe_buffer_pointer")

    unfit = {jax.core.Tracer: "stands for values that are not there yet; call attention outside jit, grad and vmap"}
    return Library("jax", view, lambda array: 0, empty, holds, unfit, finish)


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
