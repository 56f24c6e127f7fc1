"""How long a process's first call takes, beyond imports: with an empty store (cold) and with a filled one (warm)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

LIMITS = {"cold": 2.5, "warm": 0.3}


def report(dtype: str, head_dim: int, program: str) -> int:
    """Print both, each measured in a process of its own; returns how many are above their limit.

    program: a name in `testing/programs.py`, such as "causal", or "score_mod-alibi" for a function of a user's.
    """
    from numba_fa.build.driver import device_count

    what = "attention() on a GPU" if device_count() else "obtaining the sm_90a kernel (no GPU here to run it)"
    print(f"first call, {what}: {dtype}, head_dim {head_dim}, {program}")
    late = 0
    for state, measured in states(dtype, head_dim, program):
        late += measured["call"] > LIMITS[state]
        print(
            f"  {state} store: {measured['call']:.3f} s beyond {measured['imports']:.2f} s of imports, limit "
            f"{LIMITS[state]} s; Numba is{'' if measured['numba'] else ' not'} loaded"
        )
    return late


def states(dtype: str, head_dim: int, program: str) -> Iterator[tuple[str, dict[str, float]]]:
    """("cold", what `measure` found in a process of its own), then the same for "warm"."""
    with tempfile.TemporaryDirectory() as store:
        for state in ("cold", "warm"):
            command = [sys.executable, "-m", "numba_fa.testing.first_call", dtype, str(head_dim), program, state]
            environment = os.environ | {"NUMBA_FA_CACHE_DIR": store}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise RuntimeError(done.stderr)
            yield state, json.loads(done.stdout.splitlines()[-1])


def measure(dtype: str, head_dim: int, program: str, state: str) -> dict[str, float | bool]:
    """Seconds of imports and of the first call in this process. With a GPU the call is attention() to its end."""
    start = time.perf_counter()
    import cuda.core  # noqa: F401
    from cuda.bindings import driver, nvjitlink  # noqa: F401

    from numba_fa import api
    from numba_fa.build import driver as ours
    from numba_fa.testing.programs import PROGRAMS, Sizes

    if state == "cold":  # only a cold call needs the compiler, so only there is it one of the imports
        from numba import cuda as compiler  # noqa: F401

    has_gpu = ours.device_count() > 0
    if has_gpu:
        import torch

        shape = (1, 1024, 4, head_dim)
        asked = PROGRAMS[program](Sizes(1, 1024, 1024, 4)).moved(lambda array: torch.from_numpy(array).cuda())
        q, k, v = (torch.randn(shape, device="cuda", dtype=getattr(torch, dtype)) for _ in range(3))
        torch.cuda.synchronize()
    imports = time.perf_counter() - start
    start = time.perf_counter()
    if has_gpu:
        api.attention(q, k, v, mask=asked.mask, bias=asked.biases or None, sink_logits=asked.sink_logits)
        torch.cuda.synchronize()
    else:
        from numba_fa.build.loader import artifact_for
        from numba_fa.dispatch.registry import variant_of
        from numba_fa.dispatch.tuning import key_for
        from numba_fa.problem.dtypes import DTYPES
        from numba_fa.problem.masks import mask_named

        asked = PROGRAMS[program](Sizes(1, 1024, 1024, 4))
        names = [bias.name for bias in asked.biases] + ([] if asked.sink_logits is None else ["sink"])
        mask = mask_named(asked.mask)
        assert mask is not None
        key = key_for("fwd", "sm90", DTYPES[dtype].name, head_dim, mask.name, "+".join(names) or "none")
        artifact_for(key, variant_of(key), "sm_90a")
    call = time.perf_counter() - start
    return {"imports": imports, "call": call, "numba": "numba" in sys.modules}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])))
