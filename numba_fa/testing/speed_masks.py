"""TFLOP/s with masks and biases on a GPU beside FlexAttention (torch.compile), in one process: forward, or backward.

`python -m numba_fa.testing.speed_masks` prints README's table of masks and biases: 16384 tokens, hidden size 2048,
bfloat16, head_dim 128. Causal counts half the work, a window of w keys seqlen * w, a document mask the visible pairs.
Every kernel's result is compared with the peer's before anything is timed. `--backward` does the same for gradients, whose
operations are 2.5 times the forward's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numba_fa
from numba_fa.testing.backward_plan import BackwardPlan
from numba_fa.testing.programs import alibi_mod, causal_mod
from numba_fa.testing.timing import median_time

TOKENS, HIDDEN, HEAD_DIM = 16384, 2048, 128
WINDOW, DOCUMENTS, CAP = 1024, 8, 30.0


@dataclass(frozen=True)
class Case:
    """One row: how each contender asks for it. ours, flex: (q) -> keyword arguments; work: visible pairs of one head."""

    name: str
    seqlen: int
    ours: dict[str, Callable[[Any], dict[str, Any]]]
    flex: Callable[[Any], dict[str, Any]]
    work: Callable[[int], float] = field(default=lambda seqlen: seqlen * seqlen / 2)


def slopes(q: Any) -> Any:
    """ALiBi's slopes on q's device."""
    import torch

    heads = q.shape[2]
    return 2.0 ** (-8.0 * (torch.arange(heads, device=q.device, dtype=torch.float32) + 1) / heads)


def ids(q: Any) -> Any:
    """Segment ids of DOCUMENTS documents as long as each other."""
    import torch

    batch, seqlen = q.shape[:2]
    return (torch.arange(seqlen, device=q.device, dtype=torch.int32) // (seqlen // DOCUMENTS))[None].repeat(batch, 1)


def _flex_blocks(q: Any, mask_mod: Callable[..., Any]) -> Any:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    seqlen = q.shape[1]
    return torch.compile(create_block_mask)(mask_mod, None, None, seqlen, seqlen, device="cuda")


def _flex_causal(b: Any, h: Any, i: Any, j: Any) -> Any:
    return i >= j


def _flex_alibi(q: Any) -> dict[str, Any]:
    m = slopes(q)
    return {"score_mod": lambda s, b, h, i, j: s - m[h] * (i - j).abs(), "block_mask": _flex_blocks(q, _flex_causal)}


def _flex_softcap(q: Any) -> dict[str, Any]:
    import torch

    return {"score_mod": lambda s, b, h, i, j: CAP * torch.tanh(s / CAP), "block_mask": _flex_blocks(q, _flex_causal)}


def _flex_window(q: Any) -> dict[str, Any]:
    return {"block_mask": _flex_blocks(q, lambda b, h, i, j: (i >= j) & (i - j < WINDOW))}


def _flex_documents(q: Any) -> dict[str, Any]:
    document = ids(q)[0]
    return {"block_mask": _flex_blocks(q, lambda b, h, i, j: document[i] == document[j])}


def _blocked(mask: Any, q: Any) -> dict[str, Any]:
    return {"mask": numba_fa.block_mask(mask, seqlen_q=q.shape[1], seqlen_k=q.shape[1], like=q)}


CASES = (
    Case(
        "causal", 8192,
        {"causal": lambda q: {"mask": "causal"},
         "mask_mod": lambda q: _blocked(numba_fa.MaskMod(causal_mod, 0), q)},
        lambda q: {"block_mask": _flex_blocks(q, _flex_causal)},
    ),
    Case(
        "ALiBi + causal", 8192,
        {"ALiBi": lambda q: {"mask": "causal", "bias": numba_fa.ALiBi(slopes(q))},
         "score_mod": lambda q: {"mask": "causal", "bias": numba_fa.ScoreMod(alibi_mod, 0, slopes(q))}},
        _flex_alibi,
    ),
    Case("softcap + causal", 8192, {"Softcap": lambda q: {"mask": "causal", "bias": numba_fa.Softcap(CAP)}}, _flex_softcap),
    Case(
        f"window {WINDOW}", 16384, {"SlidingWindow": lambda q: {"mask": numba_fa.SlidingWindow(WINDOW - 1, 0)}},
        _flex_window, lambda seqlen: seqlen * WINDOW,
    ),
    Case(
        f"{DOCUMENTS} documents", 16384, {"Document": lambda q: _blocked(numba_fa.Document(ids(q)[:1]), q)},
        _flex_documents, lambda seqlen: seqlen * seqlen / DOCUMENTS,
    ),
)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--head-dim", type=int, default=HEAD_DIM)
    parser.add_argument("--backward", action="store_true")
    options = parser.parse_args()
    import torch

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numba-cuda", "cuda-core"))
    print(f"{torch.cuda.get_device_name()}, {versions}, bfloat16, head_dim {options.head_dim}, TFLOP/s", flush=True)
    print("| what | seqlen | numba_fa | TFLOP/s | FlexAttention | over it |\n|---|---|---|---|---|---|")
    for case in CASES:
        for line in _rows(case, options):
            print(line, flush=True)


def _rows(case: Case, options: Any) -> list[str]:
    import torch

    batch, heads = TOKENS // case.seqlen, HIDDEN // options.head_dim
    shape = (batch, case.seqlen, heads, options.head_dim)
    q, k, v, dout = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    functions = _backwards(case, q, k, v, dout) if options.backward else _forwards(case, q, k, v)
    times = median_time(functions, repeats=options.repeats)
    flops = 4 * batch * heads * case.work(case.seqlen) * options.head_dim * (2.5 if options.backward else 1)
    rates = {name: flops / times[name] / 1e9 for name in functions}
    flex = rates.pop("FlexAttention")
    return [
        f"| {case.name} | {case.seqlen} | {name} | {rate:.0f} | {flex:.0f} | {rate / flex:.2f} |"
        for name, rate in rates.items()
    ]


def _forwards(case: Case, q: Any, k: Any, v: Any) -> dict[str, Callable[[], Any]]:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    heads_first, compiled, asked = [x.transpose(1, 2) for x in (q, k, v)], torch.compile(flex_attention), case.flex(q)
    functions = {"FlexAttention": lambda: compiled(*heads_first, **asked)}
    wanted = functions["FlexAttention"]().transpose(1, 2).float()
    for name, ours in case.ours.items():
        arguments = ours(q)
        plan, out = numba_fa.plan(q, k, v, **arguments), torch.full_like(q, math.nan)
        plan.run(q, k, v, out)
        _compare(plan.key.slug, out, wanted)
        functions[name] = lambda plan=plan, out=out: plan.run(q, k, v, out)
    return functions


def _backwards(case: Case, q: Any, k: Any, v: Any, dout: Any) -> dict[str, Callable[[], Any]]:
    import torch
    import torch._functorch.config
    from torch.nn.attention.flex_attention import flex_attention

    torch._functorch.config.donated_buffer = False  # type: ignore[attr-defined]  # its backward runs many times
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out = torch.compile(flex_attention)(*[x.transpose(1, 2) for x in leaves], **case.flex(q)).transpose(1, 2)
    functions = {"FlexAttention": lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)}
    wanted = functions["FlexAttention"]()
    for name, ours in case.ours.items():
        plan = BackwardPlan(q, k, v, dout, **{"mask": "full"} | ours(q))
        plan.run()
        for result, expected in zip(plan.results, wanted):
            _compare(plan.key.slug, result, expected.float())
        functions[name] = plan.run
    return functions


def _compare(slug: str, result: Any, wanted: Any) -> None:
    error = ((result.float() - wanted).norm() / wanted.norm()).item()
    if not error < 1e-2:
        raise SystemExit(f"{slug} differs from FlexAttention: relative error {error}")


if __name__ == "__main__":
    main()
