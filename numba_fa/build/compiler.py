"""From a dispatch key to a cubin, with no GPU present: Numba -> LLVM -> LTO-IR -> nvJitLink.

LTO-IR, never PTX: given PTX, nvJitLink compiles relocatable code, ignores setmaxnreg (C7504), serialises wgmma (C7509)
and spills, and says so only in its log. Every line of the log with C75 is therefore an error here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from numba_fa.build.artifact import Artifact
from numba_fa.build.collector import collector_at_rest
from numba_fa.build.fingerprint import versions
from numba_fa.build.shortcuts import shortcuts
from numba_fa.build.skeleton_place import Place
from numba_fa.build.store import Store
from numba_fa.dispatch.key import DispatchKey
from numba_fa.errors import CompileError
from numba_fa.problem.dependent import dependents
from numba_fa.problem.functions import UserFunction, functions_of
from numba_fa.problem.user_errors import check_functions, explain_compile_error

_LOCK = threading.Lock()  # Numba's compiler keeps global state
_USED = re.compile(r"Used (\d+) registers")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def compile_kernel(
    key: DispatchKey, factory: Callable[[DispatchKey], Any], arch: str, skeletons: Store | None = None
) -> Artifact:
    """Compile `factory(key)` for `arch` ("sm_90a"); CompileError when it fails or the code would be serialised.

    skeletons: where kernels are kept without the user's functions in them, so that others may take their place.
    """
    functions, entry = functions_of(key.mask, key.bias), _entry(key)
    with _LOCK, _compiling_for(_capability(arch)):
        with dependents() as noted:
            source = _made(key, factory, functions)
        place = Place(skeletons, key.slug, arch, entry, noted, source.program) if skeletons and functions else None
        linked = _quickly(place, arch) if place else None
        cubin, log = linked or _wholly(source, functions, place, entry, arch)
    advisories = [line for line in log.splitlines() if "C75" in line]
    used, stack = _USED.search(log), _STACK.search(log)
    if advisories or not used or not stack:
        raise CompileError(f"{key.slug} for {arch} compiled into code that must not run:\n" + log)
    return Artifact(
        slug=key.slug,
        arch=arch,
        entry=entry,
        cubin=cubin,
        registers=int(used[1]),
        stack=int(stack[1]),
        spill_stores=int(stack[2]),
        spill_loads=int(stack[3]),
        shared_bytes=source.shared_bytes,
        threads=source.threads,
        versions=versions(),
    )


def ptx_of(key: DispatchKey, factory: Callable[[DispatchKey], Any], arch: str) -> str:
    """The kernel as PTX text, to be read by people; what runs is linked from LTO-IR."""
    functions = functions_of(key.mask, key.bias)
    with _LOCK, _compiling_for(_capability(arch)):
        source = _made(key, factory, functions)
        with _explained(functions):
            library = _lower(source, arch, lto=False)
        _edit(library, _entry(key))
        return library.get_asm_str(cc=_capability(arch))


def _made(key: DispatchKey, factory: Callable[[DispatchKey], Any], functions: list[UserFunction]) -> Any:
    """What the factory makes; CompileError for a user's mistake."""
    if functions:
        from numba_fa.jit import device

        check_functions(functions, device, _Scalars())
    with _explained(functions):
        return factory(key)


def _quickly(place: Place, arch: str) -> tuple[bytes, str] | None:
    """`_link`'s of the skeleton at `place` with other functions in it; None where that is not to be had."""
    modules = place.modules()
    if not modules:
        return None
    try:
        return _link(_ltoir(modules, arch), arch)
    except Exception:  # NVVM's errors are of no common class; the whole kernel is compiled then, and shows what is wrong
        return None


def _wholly(
    source: Any, functions: list[UserFunction], place: Place | None, entry: str, arch: str
) -> tuple[bytes, str]:
    """`_link`'s of a kernel, whose skeleton is left at `place`."""
    with _explained(functions):
        library = _lower(source, arch, lto=True)
    texts = _edit(library, entry)
    linked = _link(_ltoir(list(texts.values()), arch), arch)
    if place:
        place.keep(library, texts)
    return linked


@contextmanager
def _explained(functions: list[UserFunction]) -> Iterator[None]:
    """Numba's errors become CompileErrors that speak of the user's functions, where there are any."""
    try:
        yield
    except Exception as error:
        if functions and type(error).__module__.startswith("numba."):
            raise explain_compile_error(error, functions) from error
        raise


class _Scalars(dict[str, Any]):
    """What a user's function sees of launch arguments, by token: the scalars that kernels call it with."""

    def __missing__(self, token: str) -> Any:
        import numba_fa.scalar.register  # noqa: F401  (tells the compiler of them)
        from numba_fa.jit import TOKENS
        from numba_fa.scalar.types import scalar_of

        return scalar_of(TOKENS[token], fast=False)


@contextmanager
def _compiling_for(capability: tuple[Any, ...]) -> Iterator[None]:
    """Numba compiles device functions for "the current device"; there may be none, or another one."""
    import numba.cuda.dispatcher

    device = SimpleNamespace(compute_capability=capability)
    saved, numba.cuda.dispatcher.get_current_device = numba.cuda.dispatcher.get_current_device, lambda: device
    try:
        with collector_at_rest(), shortcuts():
            yield
    finally:
        numba.cuda.dispatcher.get_current_device = saved


def _lower(source: Any, arch: str, lto: bool) -> Any:
    """Type and lower a kernel into Numba's code library."""
    from numba.cuda import types  # type: ignore[attr-defined]
    from numba.cuda.compiler import _compile_pyfunc_with_fixup  # type: ignore[attr-defined]

    library, _ = _compile_pyfunc_with_fixup(
        source.function, types.void(*source.types), device=False, cc=_capability(arch),  # type: ignore[attr-defined]
        abi="numba", launch_bounds=(source.threads, 1), lto=lto,
    )  # fmt: skip
    _pass_tensor_maps_by_value(library, source.signature)
    return library


def _pass_tensor_maps_by_value(library: Any, signature: tuple[str, ...]) -> None:
    """Mark descriptor parameters as 64-byte aligned constants of the grid; else they are copied to local memory."""
    from llvmlite import ir

    function = library.get_function(library._entry_name)
    positions = [i for i, token in enumerate(signature) if token == "tensor_map"]
    if not positions:
        return
    module = function.module
    for i in positions:
        function.args[i].add_attribute("byval")
        function.args[i].attributes.align = 64
    numbers = module.add_metadata([ir.Constant(ir.IntType(32), i + 1) for i in positions])
    module.namedmetadata["nvvm.annotations"].add(module.add_metadata([function, "grid_constant", numbers]))


def _entry(key: DispatchKey) -> str:
    """The kernel's name in machine code, where letters, digits and underscores alone may stand."""
    return "numba_fa_" + re.sub(r"\W", "_", key.slug)


def _edit(library: Any, entry: str) -> dict[Any, str]:
    """LLVM text by module, the kernel with a stable name; and NVVM's LLVM 7 wants byval without llvmlite's type."""
    modules = dict.fromkeys(library.modules)  # a function that several call is there several times
    texts = {module: str(module).replace(library._entry_name, entry) for module in modules}
    texts = {module: text.replace("byval([16 x i64])", "byval") for module, text in texts.items()}
    library._llvm_strs = list(texts.values())
    return texts


def _ltoir(modules: list[str], arch: str) -> bytes:
    """What NVVM makes of LLVM text."""
    from numba.cuda.cudadrv import nvrtc, nvvm

    return nvvm.compile_ir(modules, **{"arch": nvrtc.get_arch_option(*_capability(arch)), "gen-lto": None})  # type: ignore[attr-defined]


def _link(ltoir: bytes, arch: str) -> tuple[bytes, str]:
    """LTO-IR to (cubin, log). Without -no-cache nvJitLink may take a result of an earlier process, with an empty log."""
    from cuda.bindings import nvjitlink

    options = [f"-arch={arch}", "-lto", "-O3", "-Xptxas=-v", "-no-cache"]
    handle = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.LTOIR, ltoir, len(ltoir), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        return bytes(cubin), _log(nvjitlink.get_info_log_size, nvjitlink.get_info_log, handle)
    except nvjitlink.nvJitLinkError as error:
        log = _log(nvjitlink.get_error_log_size, nvjitlink.get_error_log, handle)
        raise CompileError(f"nvJitLink failed for {arch}: {error}\n{log}") from error
    finally:
        nvjitlink.destroy(handle)


def _log(size: Callable[[int], int], read: Callable[[int, bytearray], None], handle: int) -> str:
    text = bytearray(size(handle))
    if text:
        read(handle, text)
    return text.decode(errors="replace").rstrip("\0")


def _capability(arch: str) -> tuple[Any, ...]:
    digits, suffix = re.fullmatch(r"sm_(\d+)([af]?)", arch).groups()  # type: ignore[union-attr]
    return (int(digits[:-1]), int(digits[-1]), *([suffix] if suffix else []))
