"""Forward TFLOP/s on a GPU beside cuDNN and FlashAttention-2 (through torch), in one process.

`python -m numba_fa.testing.speed` prints the table of the README. With slugs as arguments it times those kernels
instead of the tuning table's choice. Every workload has 16384 tokens and a hidden size of 2048.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.testing.flops import forward_flops
from numba_fa.testing.timing import median_time

TOKENS, HIDDEN = 16384, 2048


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slugs", nargs="*", help="kernels to time; the tuning table's by default")
    parser.add_argument("--head-dims", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--seqlens", type=int, nargs="*", default=[512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--peers", nargs="*", default=["cudnn", "fa2"], choices=["cudnn", "fa2"])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    import torch

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numba-cuda", "cuda-core"))
    cudnn = torch.backends.cudnn.version()
    print(f"{torch.cuda.get_device_name()}, {versions}, cuDNN {cudnn}, {options.dtype}, TFLOP/s", flush=True)
    print("| kernel | seqlen | numba_fa | " + " | ".join(options.peers) + " | over the best peer |")
    print("|---|---|---|" + "---|" * (len(options.peers) + 1))
    for head_dim, mask, slug in _rows(options):
        for seqlen in options.seqlens:
            print(_row(head_dim, mask, slug, seqlen, options), flush=True)


def _rows(options: Any) -> list[tuple[int, str, str | None]]:
    if options.slugs:
        keys = [DispatchKey.parse(slug) for slug in options.slugs]
        return [(key.head_dim, key.mask, key.slug) for key in keys]
    return [(head_dim, mask, None) for head_dim in options.head_dims for mask in ("full", "causal")]


def _row(head_dim: int, mask: str, slug: str | None, seqlen: int, options: Any) -> str:
    name, times, flops = measure(head_dim, mask, slug, seqlen, options.dtype, options.peers, options.repeats)
    rates = [flops / milliseconds / 1e9 for milliseconds in times.values()]
    ratio = f"{rates[0] / max(rates[1:]):.3f}" if options.peers else ""
    return f"| {name} | {seqlen} | " + " | ".join(f"{rate:.0f}" for rate in rates) + f" | {ratio} |"


def measure(
    head_dim: int, mask: str, slug: str | None, seqlen: int, dtype: str, peers: Sequence[str], repeats: int
) -> tuple[str, dict[str, float], int]:
    """(slug, milliseconds of numba_fa and of each peer, operations) of one point."""
    import torch

    batch, heads = TOKENS // seqlen, HIDDEN // head_dim
    shape = (batch, seqlen, heads, head_dim)
    q, k, v = (torch.randn(shape, device="cuda", dtype=getattr(torch, dtype)) for _ in range(3))
    name, functions = _ours(q, k, v, mask, slug)
    functions |= {peer: _peer(peer, q, k, v, mask) for peer in peers}
    times = median_time(functions, repeats=repeats)
    return name, times, forward_flops(batch, heads, seqlen, seqlen, head_dim, head_dim, causal=mask == "causal")


def _ours(q: Any, k: Any, v: Any, mask: str, slug: str | None) -> tuple[str, dict[str, Callable[[], Any]]]:
    """(slug, {"numba_fa": run}); the result is checked against float32 before anything is timed."""
    import torch

    from numba_fa import api
    from numba_fa.dispatch.registry import variant_of

    plan = api.plan(q, k, v, mask=mask)
    if slug:
        key = DispatchKey.parse(slug)
        plan = api.plan_for(plan.problem, variant_of(key), key)
    out = torch.full_like(q, float("nan"))
    plan.run(q, k, v, out)
    part = [x[:1, :, :1].float().transpose(1, 2) for x in (q, k, v)]
    truth = torch.nn.functional.scaled_dot_product_attention(*part, is_causal=mask == "causal").transpose(1, 2)
    error = ((out[:1, :, :1].float() - truth).norm() / truth.norm()).item()
    if not error < 5e-3 or out.isnan().any():
        raise SystemExit(f"{plan.key.slug} is wrong: relative error {error}")
    return plan.key.slug, {"numba_fa": lambda: plan.run(q, k, v, out)}


def _peer(peer: str, q: Any, k: Any, v: Any, mask: str) -> Callable[[], Any]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = {"cudnn": SDPBackend.CUDNN_ATTENTION, "fa2": SDPBackend.FLASH_ATTENTION}[peer]
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]

    def run() -> None:
        with sdpa_kernel(backend), torch.no_grad():
            torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=mask == "causal")

    return run


if __name__ == "__main__":
    main()
