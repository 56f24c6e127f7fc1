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

from numba_fa.dispatch.key import HeadDims
from numba_fa.testing.backward_plan import BackwardPlan
from numba_fa.testing.shapes import Shape
from numba_fa.testing.timing import median_time

# batch, seqlen_q, seqlen_k, heads, heads_kv
SHAPES = ((2, 256, 256, 2, 2), (1, 1024, 1024, 3, 3), (2, 333, 517, 4, 2), (1, 300, 40, 3, 1), (1, 1, 129, 2, 2))


def main() -> None:
    """Check, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dims", type=HeadDims.parse, nargs="*", default=[HeadDims(n, n) for n in (64, 128, 256)],
                        help="such as 64 192:128")  # fmt: skip
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
    cells = [(dims, mask) for dims in options.head_dims for mask in options.masks]
    for dims, mask in [] if options.no_check else cells:
        errors = [_error(Shape(*sizes, dims), mask, options.dtype) for sizes in SHAPES]
        worst = [f"{max(each):.1e}" for each in zip(*errors)]
        print(f"check d{dims} {mask}: worst relative error of dq, dk, dv {' '.join(worst)}", flush=True)
    for dims, mask in [] if options.no_check else cells:
        for op in options.ops:
            error = max(max(_error(Shape(*sizes, dims), mask, options.dtype, op)) for sizes in SHAPES)
            print(f"check {op} d{dims} {mask}: worst relative error {error:.1e}", flush=True)
    grids = ["tiles", "persistent"] if options.grid else []
    columns = ["cell", "seqlen", "numba_fa", *grids, *options.ops, *options.peers, "pre", "main", "finish", "over best"]
    print(f"| {' | '.join(columns)} |")
    for dims, mask in cells:
        for seqlen in options.seqlens:
            print(_row(dims, mask, seqlen, grids, options), flush=True)


def _inputs(shape: Shape, dtype: str) -> list[Any]:
    """q, k, v and dout, standard normal."""
    import torch

    q, k, v = shape.arrays
    dout = (*q[:3], shape.dims.head_dim_v)
    return [torch.randn(size, device="cuda", dtype=getattr(torch, dtype)) for size in (q, k, v, dout)]


def _error(shape: Shape, mask: str, dtype: str, op: str = "bwd") -> list[float]:
    """Relative errors of dq, dk, dv against float32 autograd."""
    import torch

    seqlen_q, seqlen_k = shape.seqlen_q, shape.seqlen_k
    torch.manual_seed(seqlen_q)
    q, k, v, dout = _inputs(shape, dtype)
    plan = BackwardPlan(q, k, v, dout, mask, op)
    plan.run()
    if op == "bwd_det":
        first = plan.results[0].clone()
        for _ in range(20):
            plan.run()
            if not torch.equal(first, plan.results[0]):
                raise SystemExit("dq differs between runs of the deterministic kernel")
    leaves = [x.float().requires_grad_() for x in (q, k, v)]
    group = shape.heads // shape.heads_kv
    qf, kf, vf = leaves[0].transpose(1, 2), *[x.transpose(1, 2).repeat_interleave(group, 1) for x in leaves[1:]]
    scores = qf @ kf.transpose(-1, -2) * shape.dims.head_dim**-0.5
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
    shape: Shape, mask: str, dtype: str, *, grids: Sequence[str] = (), ops: Sequence[str] = (),
    peers: Sequence[str] = (), repeats: int = 20,
) -> tuple[dict[str, float], float]:  # fmt: skip
    """(milliseconds of the whole backward, of those with other grids or kernels, of the peers', of each kernel alone;
    operations that are counted)."""
    import torch

    q, k, v, dout = _inputs(shape, dtype)
    plan = BackwardPlan(q, k, v, dout, mask)
    functions: dict[str, Callable[[], Any]] = {"numba_fa": plan.run}
    tiles = -(-shape.seqlen_k // plan.key.block_n) * shape.heads_kv * shape.batch
    for name in grids:
        blocks = tiles if name == "tiles" else min(tiles, torch.cuda.get_device_properties(0).multi_processor_count)
        functions[name] = BackwardPlan(q, k, v, dout, mask, grid=blocks).run
    functions |= {op: BackwardPlan(q, k, v, dout, mask, op).run for op in ops}
    functions |= {peer: _peer(peer, q, k, v, dout, mask) for peer in peers}
    for name in ("bwd_pre", "bwd", "bwd_fin"):
        functions[name] = lambda name=name: plan.run((name,))  # type: ignore[misc]
    return median_time(functions, repeats=repeats), 2.5 * shape.flops(mask)


def _row(dims: HeadDims, mask: str, seqlen: int, grids: list[str], options: Any) -> str:
    times, flops = measure(
        Shape.usual(dims, seqlen), mask, options.dtype, grids=grids, ops=options.ops, peers=options.peers,
        repeats=options.repeats
    )
    rates = {name: flops / time / 1e9 for name, time in times.items()}
    best = max((rates[peer] for peer in options.peers), default=rates["numba_fa"])
    cells = [f"{rates[name]:.0f}" for name in ("numba_fa", *grids, *options.ops, *options.peers)]
    cells += [f"{times[name] * 1e3:.0f}" + (f" ({rates[name]:.0f})" if name == "bwd" else "") for name in
              ("bwd_pre", "bwd", "bwd_fin")]  # fmt: skip
    return f"| d{dims} {mask} | {seqlen} | " + " | ".join(cells) + f" | {rates['numba_fa'] / best:.3f} |"


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
