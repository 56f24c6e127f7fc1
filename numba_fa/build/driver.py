"""The CUDA driver calls that cuda.core does not make for us, with errors by name."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from numba_fa.dispatch.device import Device, arch_of
from numba_fa.errors import LaunchError


def check(result: tuple[Any, ...]) -> Any:
    """The value of a cuda.bindings call, or LaunchError with the driver's name for what went wrong."""
    if result[0].value:
        raise LaunchError(f"the CUDA driver says {result[0].name}")
    return result[1] if len(result) == 2 else result[1:]


def raise_fault(code: int) -> NoReturn:
    """LaunchError with the driver's name for a code other than 0."""
    from cuda.bindings import driver

    check((driver.CUresult(code),))
    raise AssertionError(code)


def entry_point(name: str, since: int, waits: bool) -> Callable[..., int]:
    """A driver's function for ctypes, to be called with what byref() and from_param() made beforehand, or None.

    A launch takes half as long so, 0.29 us and not 0.53, as through cuda.bindings, which makes objects of what it is given.
    since: the CUDA version, such as 12000, of which the function is wanted. waits: whether it may take so long that other
    threads should run meanwhile.
    """
    from cuda.bindings import driver

    # A stream's handle 0 is the legacy stream, as it is to the array libraries, whatever cuda.bindings was told.
    flag = driver.CUdriverProcAddress_flags.CU_GET_PROC_ADDRESS_LEGACY_STREAM
    address, _ = check(driver.cuGetProcAddress(name.encode(), since, flag))
    if not address:
        raise LaunchError(f"the CUDA driver has no {name}")
    return (ctypes.CFUNCTYPE if waits else ctypes.PYFUNCTYPE)(ctypes.c_int)(int(address))


@contextmanager
def made_current(ordinal: int) -> Iterator[None]:
    """The GPU with this number is the thread's current one meanwhile, and what was before is afterwards.

    Where none was, GPU 0 stays so, which is what the CUDA runtime takes then; the next launch need not ask again.
    """
    from cuda.bindings import driver
    from cuda.core import Device as CudaDevice

    before = check(driver.cuCtxGetCurrent())
    CudaDevice(ordinal).set_current()
    try:
        yield
    finally:
        if int(before) or ordinal:
            check(driver.cuCtxSetCurrent(before))


# CUDA_ERROR_INVALID_CONTEXT and CUDA_ERROR_INVALID_HANDLE: what calls are answered where no GPU is current, or another than
# theirs. To ask cuCtxGetCurrent before each launch took 0.35 us of 5.9 (an H200's host).
_ELSEWHERE = (201, 400)


def settle(fault: int, ordinal: int, call: Callable[..., int], *arguments: Any) -> None:
    """Do a call again that was refused because GPU `ordinal` is not current; LaunchError for any other fault."""
    if fault in _ELSEWHERE:
        with made_current(ordinal):
            fault = call(*arguments)
    if fault:
        raise_fault(fault)


def describe_device(ordinal: int) -> Device:
    """The GPU with this number."""
    from cuda.bindings import driver
    from cuda.core import Device as CudaDevice

    try:
        device = CudaDevice(ordinal)
    except Exception as error:
        raise LaunchError(f"no GPU {ordinal} here: {error}") from error
    properties = device.properties
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return Device(
        name=device.name,
        ordinal=ordinal,
        arch=arch_of(*device.compute_capability),
        multiprocessors=properties.multiprocessor_count,
        shared_bytes=check(driver.cuDeviceGetAttribute(attribute, ordinal)),
    )


def device_count() -> int:
    """How many GPUs there are; 0 when there is no driver."""
    try:
        from cuda.bindings import driver

        check(driver.cuInit(0))
        return int(check(driver.cuDeviceGetCount()))
    except Exception:  # no driver library at all: cuda.bindings raises RuntimeError of its own
        return 0
