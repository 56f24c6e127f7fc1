"""How long a process's first call takes, beyond imports.

cold: the store is empty. new: it has the kernel of another of a user's functions. warm: it has the kernel.
"""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from numba_fa.build.fingerprint import PACKAGE

LIMITS = {"cold": 2.0, "new": 2.5, "warm": 0.2}  # seconds; of a kernel with a user's function "new" holds for "cold" too


def report(dtype: str, head_dim: int, program: str, repeats: int = 1) -> int:
    """Print each, measured in a process of its own, or of `repeats` the median; returns how many are above their limit.

    program: a name in `testing/programs.py`, such as "causal", or "score_mod-alibi" for a function of a user's.
    """
    from numba_fa.build.driver import device_count

    what = "attention() on a GPU" if device_count() else "obtaining the sm_90a kernel (no GPU here to run it)"
    print(f"first call, {what}: {dtype}, head_dim {head_dim}, {program}; median of {repeats}")
    late = 0
    every = [dict(states(dtype, head_dim, program)) for _ in range(repeats)]
    for state in every[0]:
        measured = sorted((found[state] for found in every), key=lambda found: found["call"])[(repeats - 1) // 2]
        limit = LIMITS["new" if state == "cold" and _has_function(program) else state]
        late += measured["call"] > limit
        name = "new function" if state == "new" else f"{state} store"
        print(
            f"  {name}: {measured['call']:.3f} s beyond {measured['imports']:.2f} s of imports, limit "
            f"{limit} s; Numba is{'' if measured['numba'] else ' not'} loaded"
        )
        spent = measured["stages"] | {"all else": measured["call"] - sum(measured["stages"].values())}
        print("    " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in spent.items() if seconds >= 0.0005))
    return late


def _has_function(program: str) -> bool:
    """Whether a program has a user's function."""
    return program.startswith(("mod", "score_mod"))


def states(dtype: str, head_dim: int, program: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("cold", what `measure` found in a process of its own), then the same for "new", if that is any, and "warm"."""
    compileall.compile_dir(PACKAGE, quiet=2)  # as pip does; otherwise reading the sources is measured too, 0.05 s
    with tempfile.TemporaryDirectory() as store:
        for state in ("cold", "new", "warm") if _has_function(program) else ("cold", "warm"):
            command = [sys.executable, "-m", "numba_fa.testing.first_call", dtype, str(head_dim), program, state]
            environment = os.environ | {"NUMBA_FA_CACHE_DIR": store}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise RuntimeError(done.stderr)
            yield state, json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _stages() -> Iterator[dict[str, float]]:
    """Seconds by the stage of a first call, of those that are taken meanwhile."""
    from numba_fa.adapters import torch
    from numba_fa.build import compiler, driver, loader, shortcuts, skeleton_place, store
    from numba_fa.dispatch.variant import Variant

    found: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                found[name] = found.get(name, 0.0) + time.perf_counter() - start

        return call

    with ExitStack() as stack:
        for name, owner, attribute in (
            ("torch's guard", torch, "_guards"), ("device", driver, "describe_device"), ("store read", store.Store, "get"),
            ("kernel's modules", Variant, "factory"),
            ("Numba's registries", shortcuts, "_load_registries"), ("user's functions alone", compiler, "check_functions"),
            ("typing and lowering", compiler, "_lower"), ("LLVM as text", compiler, "_edit"), ("NVVM", compiler, "_ltoir"),
            ("skeleton filled", skeleton_place.Place, "modules"), ("nvJitLink", compiler, "_link"),
            ("store written", store.Store, "put"), ("loading", loader, "_load"),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        yield found


def measure(dtype: str, head_dim: int, program: str, state: str) -> dict[str, Any]:
    """Seconds of imports, of the first call and of its stages here. With a GPU the call is attention() to its end."""
    start = time.perf_counter()
    import cuda.core  # noqa: F401
    from cuda.bindings import driver, nvjitlink  # noqa: F401

    from numba_fa import api  # noqa: F401
    from numba_fa.build.driver import device_count

    if state != "warm":  # who has the kernel needs no compiler, so elsewhere only it is one of the imports
        from numba import cuda as compiler  # noqa: F401

    call = (_attention if device_count() else _kernel)(dtype, head_dim, program, state == "new")
    imports = time.perf_counter() - start
    with _stages() as stages:
        start = time.perf_counter()
        call()
        taken = time.perf_counter() - start
    return {"imports": imports, "call": taken, "stages": stages, "numba": "numba" in sys.modules}


def _attention(dtype: str, head_dim: int, program: str, varied: bool) -> Callable[[], None]:
    """A call on a GPU, to the end of its work. varied: with another of a user's functions."""
    import torch

    from numba_fa import api
    from numba_fa.testing.programs import PROGRAMS, Sizes

    asked = PROGRAMS[program](Sizes(1, 1024, 1024, 4)).moved(lambda array: torch.from_numpy(array).cuda())
    asked = asked.varied() if varied else asked
    q, k, v = (torch.randn(1, 1024, 4, head_dim, device="cuda", dtype=getattr(torch, dtype)) for _ in range(3))
    torch.cuda.synchronize()

    def call() -> None:
        api.attention(q, k, v, mask=asked.mask, bias=asked.biases or None, sink_logits=asked.sink_logits)
        torch.cuda.synchronize()

    return call


def _kernel(dtype: str, head_dim: int, program: str, varied: bool) -> Callable[[], None]:
    """Obtaining the Hopper kernel, where there is no GPU to run it. varied: as of `_attention`."""
    from numba_fa.build.loader import artifact_for
    from numba_fa.dispatch.registry import variant_of
    from numba_fa.dispatch.tuning import key_for
    from numba_fa.problem.dtypes import DTYPES
    from numba_fa.testing.programs import PROGRAMS, Sizes

    def call() -> None:
        asked = PROGRAMS[program](Sizes(1, 1024, 1024, 4))
        names = (asked.varied() if varied else asked).names
        key = key_for("fwd", "sm90", DTYPES[dtype].name, head_dim, *names)
        artifact_for(key, variant_of(key), "sm_90a")

    return call


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])))
