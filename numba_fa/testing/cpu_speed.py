"""Milliseconds on the CPU: `python -m numba_fa.testing.cpu_speed`.

Full and causal, forward and backward, beside torch's scaled_dot_product_attention; then masks and biases, float32, beside
the full one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

BATCH, SEQLEN, HEADS, HEAD_DIM = 1, 2048, 8, 64


def main() -> None:
    """Print medians of 15, the two taking turns."""
    import torch

    import numba_fa

    print(f"torch {torch.__version__}, {os.cpu_count()} cores, ({BATCH}, {SEQLEN}, {HEADS}, {HEAD_DIM}), ms")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        q, k, v = (torch.randn(BATCH, SEQLEN, HEADS, HEAD_DIM).to(dtype) for _ in range(3))
        heads_first = [x.transpose(1, 2) for x in (q, k, v)]
        for mask in ("full", "causal"):

            def ours(arrays: Any = (q, k, v), mask: str = mask) -> None:
                numba_fa.attention(*arrays, mask=mask)

            def theirs(arrays: Any = heads_first, mask: str = mask) -> None:
                torch.nn.functional.scaled_dot_product_attention(*arrays, is_causal=mask == "causal")

            for name, pair in (("forward", (ours, theirs)), ("backward", _backwards(q, k, v, mask))):
                mine, peer = _medians(*pair)
                what = f"{str(dtype)[6:]:8} {mask:6} {name:8}"
                print(f"{what} numba_fa {mine:6.1f}  torch {peer:6.1f}  ratio {mine / peer:.2f}", flush=True)
    _print_programs()


def _backwards(q: Any, k: Any, v: Any, mask: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Our gradients and torch's, of q, k and v."""
    import torch

    import numba_fa

    dout = torch.randn(q.shape).to(q.dtype)
    out, lse = numba_fa.attention(q, k, v, mask=mask, return_lse=True)
    leaves = [x.transpose(1, 2).detach().requires_grad_() for x in (q, k, v)]
    made = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=mask == "causal")
    return (
        lambda: numba_fa.attention_backward(dout, q, k, v, out, lse, mask=mask),
        lambda: torch.autograd.grad(made, leaves, dout.transpose(1, 2), retain_graph=True),
    )


def _print_programs() -> None:
    """Every mask and bias once, with the seconds of its first call, which compiles it."""
    import numpy as np

    import numba_fa
    from numba_fa.testing.programs import PROGRAMS, Sizes

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((BATCH, SEQLEN, HEADS, HEAD_DIM)).astype(np.float32) for _ in range(3))
    numba_fa.attention(q, k, v)
    for name, make in PROGRAMS.items():
        asked = make(Sizes(BATCH, SEQLEN, SEQLEN, HEADS))

        def ours(asked: Any = asked) -> None:
            numba_fa.attention(q, k, v, mask=asked.mask, bias=asked.biases or None, sink_logits=asked.sink_logits)

        start = time.perf_counter()
        ours()
        first = time.perf_counter() - start
        mine, plain = _medians(ours, lambda: numba_fa.attention(q, k, v))
        print(f"{name:24} {mine:6.1f}  full {plain:6.1f}  ratio {mine / plain:.2f}  first call {first:.2f} s")


def _medians(*functions: Callable[[], None]) -> list[float]:
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(17):
        for function, kept in zip(functions, times):
            start = time.perf_counter()
            function()
            if turn >= 2:  # the first turns compile and warm up
                kept.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(kept) for kept in times]


if __name__ == "__main__":
    main()
