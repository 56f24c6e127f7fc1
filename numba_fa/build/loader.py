"""From a dispatch key to a loaded kernel: the store first, the compiler only when the store has nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from numba_fa.build.artifact import Artifact
from numba_fa.build.collector import collector_at_rest
from numba_fa.build.driver import check, made_current
from numba_fa.build.store import default_store, skeleton_store
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import Variant
from numba_fa.problem.functions import functions_of

_LOADED: dict[tuple[str, int], LoadedKernel] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel on a device. `owner` keeps the module loaded; `handle` is what the driver launches, in the device's
    primary context only, which is `context`; graphs: those that no launch holds just now (`build.graph`)."""

    artifact: Artifact
    owner: Any
    handle: Any
    context: int = 0
    graphs: list[Any] = field(default_factory=list, compare=False, repr=False)


def artifact_for(key: DispatchKey, variant: Variant, arch: str) -> Artifact:
    """The compiled kernel, from the store or made now and stored."""
    store = default_store()
    extra = b"".join(function.digest for function in functions_of(key.mask, key.bias))
    artifact = store.get(key.slug, arch, extra)
    if artifact is None:
        with collector_at_rest():  # imports too: each look at all that is there takes 0.04 s, with torch loaded more
            from numba_fa.build.compiler import compile_kernel

            artifact = compile_kernel(key, variant.factory(), arch, skeleton_store())
        store.put(artifact, extra)
    return artifact


def load(key: DispatchKey, variant: Variant, device: Device) -> LoadedKernel:
    """The kernel, loaded on `device`; once a process."""
    with _LOCK:
        kernel = _LOADED.get((key.slug, device.ordinal))
        if kernel is None:
            kernel = _LOADED[key.slug, device.ordinal] = _load(artifact_for(key, variant, device.arch), device)
    return kernel


def _load(artifact: Artifact, device: Device) -> LoadedKernel:
    from cuda.bindings import driver
    from cuda.core import ObjectCode

    with made_current(device.ordinal):
        owner = ObjectCode.from_cubin(artifact.cubin).get_kernel(artifact.entry)
        kernel = driver.CUkernel(int(owner.handle))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        # Above 48 KB a kernel must ask, once.
        check(driver.cuKernelSetAttribute(attribute, artifact.shared_bytes, kernel, device.ordinal))
        context = int(check(driver.cuCtxGetCurrent()))
        return LoadedKernel(artifact, owner, check(driver.cuKernelGetFunction(kernel)), context)
