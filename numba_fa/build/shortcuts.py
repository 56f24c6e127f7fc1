"""What Numba-CUDA does again and again while it compiles a kernel, done once: a first call takes half as long.

A kernel is some forty device functions. For each call in each of them Numba tries the callee's overloads one after
the other, and words a message for each that does not fit; before each function and each intrinsic it goes through all
its registries; it works out which variables live nine times a function, to do nothing at the ends of their lives; it is
ready for errors, warnings and a log at each instruction. What a function is compiled into stays what it was:
`tests/build/test_shortcuts.py` compares. Measured: docs/findings/0010.

All of this reaches into Numba-CUDA, so it is for the version that it was written for; with another one Numba does as ever.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from numba_fa.build import shortcuts_contexts, shortcuts_passes, shortcuts_types, shortcuts_variables
from numba_fa.build.fingerprint import versions
from numba_fa.build.shortcuts_passes import Replacement

KNOWN = "0.30."


@contextmanager
def shortcuts() -> Iterator[None]:
    """Numba-CUDA's compiler with the repetitions taken out, where its version is the known one and looks like it."""
    with ExitStack() as stack:
        if versions().get("numba-cuda", "").startswith(KNOWN):
            try:
                for owner, name, value in _replacements():
                    stack.enter_context(_replaced(owner, name, value))
            except (AttributeError, ImportError):  # a release that was rearranged inside
                stack.close()
        yield


def _replacements() -> Iterator[Replacement]:
    """(class, attribute, what to put there), each made when those before are in place."""
    from numba.cuda.descriptor import cuda_target

    target, typing = cuda_target.target_context, cuda_target.typing_context
    _load_registries(target, typing)
    yield _refresh_when_grown(typing)
    yield _refresh_when_grown(target)
    yield _resolve_once(typing)
    yield _options_at_once()
    yield _size_once(type(target))
    yield from shortcuts_variables.replacements(target)
    yield from shortcuts_passes.replacements()
    yield from shortcuts_contexts.replacements()
    yield from shortcuts_types.replacements(typing)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    inherited = name not in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


class _WithoutScipy:
    """An importer that hides SciPy's linear algebra from this thread. Numba imports it, to learn whether it is there."""

    def __init__(self) -> None:
        self.thread, self.asked = threading.get_ident(), False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "scipy.linalg" and threading.get_ident() == self.thread:
            self.asked = True
            raise ModuleNotFoundError(name)


def _load_registries(target: Any, typing: Any) -> None:
    """The first time in a process this imports most of Numba-CUDA."""
    finder = _WithoutScipy()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        typing.refresh()
        target.refresh()
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
    if finder.asked:
        sys.modules["numba.cuda.np.arraymath"]._HAVE_BLAS = True  # type: ignore[attr-defined]


def _refresh_when_grown(context: Any) -> Replacement:
    """A context goes through those of its registries that hold more than before."""
    owner, refresh = type(context), type(context).refresh
    lists = [
        (registry, [getattr(registry, name) for name in loader.registry_items])
        for registry, loader in context._registries.items()
    ]

    def sizes() -> list[int]:
        return [sum(map(len, items)) for _, items in lists]

    seen = sizes()

    def refresh_when_grown(self: Any) -> None:
        nonlocal seen
        now, before = sizes(), seen
        if now == before:
            return
        seen = now  # as it was before: what is registered meanwhile waits for the next time
        grown = [registry for (registry, _), size, old in zip(lists, now, before) if size != old]
        # Of Numba's own registries, those for the CPU, a part is taken only.
        if any(not type(registry).__module__.startswith("numba.cuda.") for registry in grown):
            return refresh(self)
        for registry in grown:
            self.install_registry(registry)
        if hasattr(self, "typing_context"):
            self.typing_context.refresh()

    return owner, "refresh", refresh_when_grown


def _resolve_once(typing: Any) -> Replacement:
    """The overload of a function for given types is looked for once, and not at each call, nor again to lower it."""
    from numba.cuda import types  # type: ignore[attr-defined]

    owner = types.Function  # type: ignore[attr-defined]
    resolve, known = owner.get_call_type, dict[Any, Any]()

    def resolve_once(self: Any, context: Any, arguments: Any, keywords: Any) -> Any:
        if context is not typing:  # Numba for the CPU, in another thread
            return resolve(self, context, arguments, keywords)
        key = self, tuple(arguments), tuple(keywords.items())
        if key not in known:
            signature = resolve(self, context, arguments, keywords)
            known[key] = signature, self.get_impl_key(signature)
        signature, implementation = known[key]
        # Other arguments may lead to the same signature by another overload, which has left its implementation there.
        self._impl_keys[signature.args] = implementation
        return signature

    return owner, "get_call_type", resolve_once


def _options_at_once() -> Replacement:
    """A function's options, of which each pass wants all, taken together and not one by one."""
    from numba.cuda.core.targetconfig import TargetConfig

    defaults: dict[type, dict[str, Any]] = {}

    def values(self: Any) -> dict[str, Any]:
        kind = type(self)
        if kind not in defaults:
            defaults[kind] = {name: option.default for name, option in kind.options.items()}
        return defaults[kind] | self._values

    return TargetConfig, "values", values


def _size_once(owner: Any) -> Replacement:
    """How large a type is, for which LLVM parses a module, asked once a type."""
    measure, sizes = owner.get_abi_sizeof, dict[Any, int]()

    def get_abi_sizeof(self: Any, kind: Any) -> int:
        if kind not in sizes:
            sizes[kind] = measure(self, kind)
        return sizes[kind]

    return owner, "get_abi_sizeof", get_abi_sizeof
