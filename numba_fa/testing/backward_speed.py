"""Backward TFLOP/s on a GPU beside cuDNN and FlashAttention-2 (through torch), in one process, checked first.

`python -m numba_fa.testing.backward_speed` checks gradients against float32 autograd at shapes with edges, then times
the whole backward, its three kernels one by one, and the peers' backward. Every workload has 16384 tokens and a hidden
size of 2048; 2.5 times the forward's operations are counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from numba_fa.testing.backward_plan import BackwardPlan
from numba_fa.testing.flops import forward_flops
from numba_fa.testing.timing import median_time

TOKENS, HIDDEN = 16384, 2048
# batch, seqlen_q, seqlen_k, heads, heads_kv
SHAPES = ((2, 256, 256, 2, 2), (1, 1024, 1024, 3, 3), (2, 333, 517, 4, 2), (1, 300, 40, 3, 1), (1, 1, 129, 2, 2))


def main() -> None:
    """Check, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dims", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--masks", nargs="*", default=["full", "causal"], choices=["full", "causal"])
    parser.add_argument("--seqlens", type=int, nargs="*", default=[2048, 8192])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--peers", nargs="*", default=["cudnn", "fa2"], choices=["cudnn", "fa2"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--grid", action="store_true", help="also time one block a tile and persistent blocks")
    parser.add_argument("--ops", nargs="*", default=[], help="also time these kinds of main kernel, bwd_red or bwd_det")
    parser.add_argument("--no-check", action="store_true")
    options = parser.parse_args()
    import torch

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numba-cuda", "cuda-core"))
    cudnn = torch.backends.cudnn.version()
    print(f"{torch.cuda.get_device_name()}, {versions}, cuDNN {cudnn}, {options.dtype}, TFLOP/s (kernels: us)", flush=True)
    cells = [(head_dim, mask) for head_dim in options.head_dims for mask in options.masks]
    for head_dim, mask in [] if options.no_check else cells:
        errors = [_error(*shape, head_dim, mask, options.dtype) for shape in SHAPES]
        worst = [f"{max(each):.1e}" for each in zip(*errors)]
        print(f"check d{head_dim} {mask}: worst relative error of dq, dk, dv {' '.join(worst)}", flush=True)
    for head_dim, mask in [] if options.no_check else cells:
        for op in options.ops:
            error = max(max(_error(*shape, head_dim, mask, options.dtype, op)) for shape in SHAPES)
            print(f"check {op} d{head_dim} {mask}: worst relative error {error:.1e}", flush=True)
    grids = ["tiles", "persistent"] if options.grid else []
    columns = ["cell", "seqlen", "numba_fa", *grids, *options.ops, *options.peers, "pre", "main", "finish", "over best"]
    print(f"| {' | '.join(columns)} |")
    for head_dim, mask in cells:
        for seqlen in options.seqlens:
            print(_row(head_dim, mask, seqlen, grids, options), flush=True)


def _error(
    batch: int, seqlen_q: int, seqlen_k: int, heads: int, heads_kv: int, head_dim: int, mask: str, dtype: str,
    op: str = "bwd",
) -> list[float]:
    """Relative errors of dq, dk, dv against float32 autograd."""
    import torch

    torch.manual_seed(seqlen_q)
    shapes = [(batch, n, h, head_dim) for n, h in ((seqlen_q, heads), (seqlen_k, heads_kv))]
    q, dout = (torch.randn(shapes[0], device="cuda", dtype=getattr(torch, dtype)) for _ in range(2))
    k, v = (torch.randn(shapes[1], device="cuda", dtype=getattr(torch, dtype)) for _ in range(2))
    plan = BackwardPlan(q, k, v, dout, mask, op)
    plan.run()
    if op == "bwd_det":
        first = plan.results[0].clone()
        for _ in range(20):
            plan.run()
            if not torch.equal(first, plan.results[0]):
                raise SystemExit("dq differs between runs of the deterministic kernel")
    leaves = [x.float().requires_grad_() for x in (q, k, v)]
    group = heads // heads_kv
    qf, kf, vf = leaves[0].transpose(1, 2), *[x.transpose(1, 2).repeat_interleave(group, 1) for x in leaves[1:]]
    scores = qf @ kf.transpose(-1, -2) * head_dim**-0.5
    if mask == "causal":
        hidden = torch.ones(seqlen_q, seqlen_k, dtype=torch.bool, device="cuda").triu(1 + seqlen_k - seqlen_q)
        # A row that sees nothing must be 0, not NaN.
        scores = scores.masked_fill(hidden, -1e30)
        weights = scores.softmax(-1).masked_fill(hidden, 0)
    else:
        weights = scores.softmax(-1)
    truths = torch.autograd.grad((weights @ vf).transpose(1, 2), leaves, dout.float())
    return [((a.float() - b).norm() / b.norm().clamp_min(1e-3)).item() for a, b in zip(plan.results, truths)]


def measure(
    head_dim: int, mask: str, seqlen: int, dtype: str, *, grids: Sequence[str] = (), ops: Sequence[str] = (),
    peers: Sequence[str] = (), repeats: int = 20,
) -> tuple[dict[str, float], float]:  # fmt: skip
    """(milliseconds of the whole backward, of those with other grids or kernels, of the peers', of each kernel alone;
    operations that are counted)."""
    import torch

    batch, heads = TOKENS // seqlen, HIDDEN // head_dim
    shape = (batch, seqlen, heads, head_dim)
    q, k, v, dout = (torch.randn(shape, device="cuda", dtype=getattr(torch, dtype)) for _ in range(4))
    plan = BackwardPlan(q, k, v, dout, mask)
    functions: dict[str, Callable[[], Any]] = {"numba_fa": plan.run}
    tiles = -(-seqlen // plan.key.block_n) * heads * batch
    for name in grids:
        blocks = tiles if name == "tiles" else min(tiles, torch.cuda.get_device_properties(0).multi_processor_count)
        functions[name] = BackwardPlan(q, k, v, dout, mask, grid=blocks).run
    functions |= {op: BackwardPlan(q, k, v, dout, mask, op).run for op in ops}
    functions |= {peer: _peer(peer, q, k, v, dout, mask) for peer in peers}
    for name in ("bwd_pre", "bwd", "bwd_fin"):
        functions[name] = lambda name=name: plan.run((name,))  # type: ignore[misc]
    flops = 2.5 * forward_flops(batch, heads, seqlen, seqlen, head_dim, head_dim, causal=mask == "causal")
    return median_time(functions, repeats=repeats), flops


def _row(head_dim: int, mask: str, seqlen: int, grids: list[str], options: Any) -> str:
    times, flops = measure(
        head_dim, mask, seqlen, options.dtype, grids=grids, ops=options.ops, peers=options.peers, repeats=options.repeats
    )
    rates = {name: flops / time / 1e9 for name, time in times.items()}
    best = max((rates[peer] for peer in options.peers), default=rates["numba_fa"])
    cells = [f"{rates[name]:.0f}" for name in ("numba_fa", *grids, *options.ops, *options.peers)]
    cells += [f"{times[name] * 1e3:.0f}" + (f" ({rates[name]:.0f})" if name == "bwd" else "") for name in
              ("bwd_pre", "bwd", "bwd_fin")]  # fmt: skip
    return f"| d{head_dim} {mask} | {seqlen} | " + " | ".join(cells) + f" | {rates['numba_fa'] / best:.3f} |"


def _peer(peer: str, q: Any, k: Any, v: Any, dout: Any, mask: str) -> Callable[[], Any]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = {"cudnn": SDPBackend.CUDNN_ATTENTION, "fa2": SDPBackend.FLASH_ATTENTION}[peer]
    leaves = [x.transpose(1, 2).detach().requires_grad_() for x in (q, k, v)]
    with sdpa_kernel(backend):
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=mask == "causal")
    return lambda: torch.autograd.grad(out, leaves, dout.transpose(1, 2), retain_graph=True)


if __name__ == "__main__":
    main()
