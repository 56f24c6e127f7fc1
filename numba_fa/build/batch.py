"""Many kernels at once, one process each: Numba's compiler holds a lock of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from numba_fa.build.artifact import Artifact
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.registry import variant_of


def compile_all(keys: Iterable[DispatchKey], arch: str, jobs: int | None) -> int:
    """Compile into the store, one line a kernel as it is done. Returns how many failed."""
    keys = list(keys)
    start, bad = time.perf_counter(), 0
    for number, (key, made) in enumerate(compiled(keys, arch, jobs), 1):
        said = resources(made) if isinstance(made, Artifact) else f"FAILED: {made}"
        bad += not isinstance(made, Artifact)
        print(f"[{number}/{len(keys)}] {key.slug} {said}", flush=True)
    print(f"{len(keys) - bad} of {len(keys)} kernels in {time.perf_counter() - start:.1f} s")
    return bad


def compiled(
    keys: Iterable[DispatchKey], arch: str, jobs: int | None
) -> Iterator[tuple[DispatchKey, Artifact | BaseException]]:
    """Each key with its kernel, or with what went wrong, as it is done; the store holds it then."""
    # spawn: a forked child would share the parent's half-initialised compiler threads
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(compile_one, key, arch): key for key in keys}
        for future in as_completed(futures):
            yield futures[future], future.exception() or future.result()


def compile_one(key: DispatchKey, arch: str) -> Artifact:
    """One kernel, from the store or compiled; runs in a process of its own."""
    import numba_fa.kernels  # noqa: F401  (registers the variants in a fresh process)
    from numba_fa.build.loader import artifact_for

    return artifact_for(key, variant_of(key), arch)


def resources(artifact: Artifact) -> str:
    """A line: registers, stack, spills, shared memory, size."""
    return (
        f"{artifact.registers} registers, {artifact.stack} B stack, {artifact.spill_stores}/{artifact.spill_loads} B "
        f"spilled/reloaded, {artifact.shared_bytes} B shared, {len(artifact.cubin)} B cubin"
    )
