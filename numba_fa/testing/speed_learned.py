"""Microseconds of backwards that learn biases too, on a GPU beside torch's, in one process.

`python -m numba_fa.testing.speed_learned` prints README's table: bfloat16, 16 heads of 128, gradients of q, k, v and of the
bias's parameter. A dense bias's peer is torch's scaled_dot_product_attention with attn_mask (its memory-efficient kernel,
whose gradient is as wide as the scores and bfloat16); T5's is the same with a mask gathered from the table, as models do;
ALiBi's is FlexAttention with slopes that require grad. Every gradient of ours is compared with the peer's before anything
is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numba_fa
from numba_fa.testing.speed_masks import slopes
from numba_fa.testing.timing import median_time

HEADS, HEAD_DIM, BUCKETS, MAX_DISTANCE = 16, 128, 32, 128


@dataclass(frozen=True)
class Case:
    """One row. parameter(batch, seqlen) -> what is learnt; ours(parameter) -> keyword arguments; peer(leaves, parameter) ->
    torch's output, heads second."""

    name: str
    batch: int
    seqlen: int
    parameter: Callable[[int, int], Any]
    ours: Callable[[Any], dict[str, Any]]
    peer: Callable[[list[Any], Any], Any]


def _random(*shape: int) -> Any:
    import torch

    return torch.randn(shape, device="cuda")


def _with_mask(leaves: list[Any], mask: Any) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = leaves
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype).contiguous().expand(*q.shape[:3], -1))


def _with_table(leaves: list[Any], table: Any) -> Any:
    """T5's bias as models make it (Raffel et al. 2020, both ways): gathered, a number a score."""
    import torch

    place = torch.arange(leaves[0].shape[2], device="cuda")
    ahead = place[None] - place[:, None]
    side, exact = BUCKETS // 2, BUCKETS // 4
    far = torch.log(ahead.abs().clamp(min=1).double() / exact) / torch.log(torch.tensor(MAX_DISTANCE / exact).double())
    far = (exact + (far * (side - exact) + 1e-9).long()).clamp(max=side - 1)
    bucket = torch.where(ahead.abs() < exact, ahead.abs(), far) + side * (ahead > 0)
    return _with_mask(leaves, torch.nn.functional.embedding(bucket, table).permute(2, 0, 1)[None])


def _with_slopes(leaves: list[Any], slope: Any) -> Any:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    seqlen = leaves[0].shape[2]
    blocks = torch.compile(create_block_mask)(lambda b, h, i, j: i >= j, None, None, seqlen, seqlen, device="cuda")
    flex = torch.compile(flex_attention)
    return flex(*leaves, score_mod=lambda s, b, h, i, j: s - slope[h] * (i - j).abs(), block_mask=blocks)


def _alibi(parameter: Any) -> dict[str, Any]:
    return {"mask": "causal", "bias": numba_fa.ALiBi(parameter)}


def _t5(parameter: Any) -> dict[str, Any]:
    return {"bias": numba_fa.T5Bias(parameter, MAX_DISTANCE)}


def _dense(parameter: Any) -> dict[str, Any]:
    return {"bias": numba_fa.DenseBias(parameter)}


CASES = (
    Case("ALiBi's slopes, causal", 2, 2048, lambda batch, n: slopes(_random(1, 1, HEADS, 1)), _alibi, _with_slopes),
    Case("T5's table", 2, 2048, lambda batch, n: _random(BUCKETS, HEADS), _t5, _with_table),
    Case("T5's table", 1, 8192, lambda batch, n: _random(BUCKETS, HEADS), _t5, _with_table),
    Case("dense (seqlen, seqlen)", 2, 2048, lambda batch, n: _random(n, n), _dense, _with_mask),
    Case("dense (heads, seqlen, seqlen)", 2, 2048, lambda batch, n: _random(HEADS, n, n), _dense, _with_mask),
    Case("dense, of every score", 2, 2048, lambda batch, n: _random(batch, HEADS, n, n), _dense, _with_mask),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--cases", type=int, nargs="+", help="numbers of rows, from 0; all by default")
    options = parser.parse_args()
    import torch
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False  # type: ignore[attr-defined]  # FlexAttention's backward runs many times
    torch.manual_seed(0)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numba-cuda", "cuda-core"))
    print(f"{torch.cuda.get_device_name()}, {versions}, bfloat16, {HEADS} heads of {HEAD_DIM}, microseconds", flush=True)
    print("| what is learnt | batch, seqlen | q, k, v | and the bias | torch | over it |\n|---|---|---|---|---|---|")
    for case in [CASES[i] for i in options.cases] if options.cases else CASES:
        times = {name: 1e3 * t for name, t in median_time(_functions(case), repeats=options.repeats).items()}
        alone, learnt, peer = times["q, k, v"], times["all"], times["peer"]
        numbers = f"{alone:.0f} | {learnt:.0f} | {peer:.0f} | {peer / learnt:.2f}"
        print(f"| {case.name} | {case.batch}, {case.seqlen} | {numbers} |", flush=True)


def _functions(case: Case) -> dict[str, Callable[[], Any]]:
    import torch

    q, k, v, dout = (
        torch.randn(case.batch, case.seqlen, HEADS, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(4)
    )
    parameter = case.parameter(case.batch, case.seqlen)
    asked = case.ours(parameter)
    saved = numba_fa.attention(q, k, v, return_lse=True, **asked)

    def ours(*wanted: str) -> Any:
        return numba_fa.attention_backward(dout, q, k, v, *saved, wanted=wanted, **asked)

    leaves = [x.transpose(1, 2).detach().requires_grad_() for x in (q, k, v)]
    learnt = parameter.clone().requires_grad_()
    out = case.peer(leaves, learnt)
    functions = {
        "q, k, v": lambda: ours("q", "k", "v"),
        "all": lambda: ours("q", "k", "v", "bias"),
        "peer": lambda: torch.autograd.grad(out, [*leaves, learnt], dout.transpose(1, 2), retain_graph=True),
    }
    _compare(case, functions["all"](), functions["peer"]())
    return functions


def _compare(case: Case, found: Any, wanted: Any) -> None:
    """SystemExit where gradients differ by more than what a bfloat16 mask, and its gradient, may make of them."""
    results = (*[x.transpose(1, 2) for x in found[:3]], found.dbias[0])
    for name, result, expected in zip(("q", "k", "v", "bias"), results, wanted, strict=True):
        error = ((result.float() - expected.float()).norm() / expected.float().norm()).item()
        if not error < 3e-2:
            raise SystemExit(f"{case.name}: the gradient of {name} differs from torch's: relative error {error}")


if __name__ == "__main__":
    main()
