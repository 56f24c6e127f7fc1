"""Forward TFLOP/s on a GPU beside cuDNN and FlashAttention-2 (through torch), in one process.

`python -m numba_fa.testing.speed` prints the table of the README. With slugs as arguments it times those kernels
instead of the tuning table's choice. Workloads have 16384 tokens and a hidden size of 2048, unless --shapes are given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from numba_fa.dispatch.key import DispatchKey, HeadDims
from numba_fa.testing.shapes import Shape
from numba_fa.testing.timing import median_time

USUAL_DIMS = [HeadDims(64, 64), HeadDims(128, 128), HeadDims(256, 256)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slugs", nargs="*", help="kernels to time; the tuning table's by default")
    parser.add_argument("--head-dims", type=HeadDims.parse, nargs="*", default=USUAL_DIMS, help="such as 64 192:128")
    parser.add_argument("--seqlens", type=int, nargs="*", default=[512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--groups", type=int, nargs="*", default=[1], help="query heads a key head")
    parser.add_argument("--shapes", type=Shape.parse, nargs="*", default=[],
                        help="batch,seqlen_q,seqlen_k,heads,heads_kv,head_dim, in place of the three above")  # fmt: skip
    parser.add_argument("--masks", nargs="*", default=["full", "causal"], choices=["full", "causal"])
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
    for shape, mask, slug in points(options):
        print(_row(shape, mask, slug, options), flush=True)


def points(options: Any) -> Iterator[tuple[Shape, str, str | None]]:
    """(shape, mask, slug or None) of each row."""
    keys = [DispatchKey.parse(slug) for slug in options.slugs]
    cells: list[tuple[HeadDims, str, str | None]] = [
        (key.dims, key.mask, key.slug) for key in keys
    ]
    cells = cells or [(dims, mask, None) for dims in options.head_dims for mask in options.masks]
    if options.shapes:
        yield from ((shape, mask, None) for shape in options.shapes for mask in options.masks)
        return
    for dims, mask, slug in cells:
        for group in options.groups:
            for seqlen in options.seqlens:
                yield Shape.usual(dims, seqlen, group), mask, slug


def _row(shape: Shape, mask: str, slug: str | None, options: Any) -> str:
    name, times, flops = measure(shape, mask, slug, options.dtype, options.peers, options.repeats)
    rates = {who: flops / milliseconds / 1e9 for who, milliseconds in times.items()}
    beside = [rates[peer] for peer in options.peers if peer in rates]
    ratio = f"{rates['numba_fa'] / max(beside):.3f}" if beside else ""
    where = shape.seqlen_q if shape == Shape.usual(shape.dims, shape.seqlen_q) else shape
    told = [f"{rates[who]:.0f}" if who in rates else "-" for who in ("numba_fa", *options.peers)]
    return f"| {name} | {where} | " + " | ".join(told) + f" | {ratio} |"


def measure(
    shape: Shape, mask: str, slug: str | None, dtype: str, peers: Sequence[str], repeats: int
) -> tuple[str, dict[str, float], int]:
    """(slug, milliseconds of numba_fa and of each peer that takes it, operations) of one point."""
    import torch

    q, k, v = (torch.randn(size, device="cuda", dtype=getattr(torch, dtype)) for size in shape.arrays)
    name, functions = _ours(q, k, v, mask, slug)
    functions |= {peer: run for peer in peers for run in [_peer(peer, q, k, v, mask)] if _runs(run)}
    return name, median_time(functions, repeats=repeats), shape.flops(mask)


def _ours(q: Any, k: Any, v: Any, mask: str, slug: str | None) -> tuple[str, dict[str, Callable[[], Any]]]:
    """(slug, {"numba_fa": run}); the result is checked against float32 before anything is timed."""
    import torch

    from numba_fa import api
    from numba_fa.dispatch.registry import variant_of

    plan = api.plan(q, k, v, mask=mask)
    if slug:
        key = DispatchKey.parse(slug)
        plan = api.plan_for(plan.problem, variant_of(key), key)
    out = torch.full((*q.shape[:3], v.shape[3]), float("nan"), dtype=q.dtype, device=q.device)
    plan.run(q, k, v, out)
    part = [x[:1, :, :1].float().transpose(1, 2) for x in (q, k, v)]
    truth = torch.nn.functional.scaled_dot_product_attention(*part, **_torchs_mask(q, k, mask)).transpose(1, 2)
    error = ((out[:1, :, :1].float() - truth).norm() / truth.norm()).item()
    if not error < 5e-3 or out.isnan().any():
        raise SystemExit(f"{plan.key.slug} is wrong: relative error {error}")
    return plan.key.slug, {"numba_fa": lambda: plan.run(q, k, v, out)}


def _torchs_mask(q: Any, k: Any, mask: str) -> dict[str, Any]:
    """The mask as scaled_dot_product_attention takes it: its own causal one aligns the first query with the first key."""
    if mask == "causal" and q.shape[1] != k.shape[1]:
        from torch.nn.attention.bias import causal_lower_right

        return {"attn_mask": causal_lower_right(q.shape[1], k.shape[1])}
    return {"is_causal": mask == "causal"}


def _peer(peer: str, q: Any, k: Any, v: Any, mask: str) -> Callable[[], Any]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = {"cudnn": SDPBackend.CUDNN_ATTENTION, "fa2": SDPBackend.FLASH_ATTENTION}[peer]
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    asked = _torchs_mask(q, k, mask) | ({"enable_gqa": True} if k.shape[2] != q.shape[2] else {})

    def run() -> None:
        with sdpa_kernel(backend), torch.no_grad():
            torch.nn.functional.scaled_dot_product_attention(*heads_first, **asked)

    return run


def _runs(run: Callable[[], Any]) -> bool:
    """Whether a peer takes a call; whatever it raises is its answer."""
    try:
        run()
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main()
