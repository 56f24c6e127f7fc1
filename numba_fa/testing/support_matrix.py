"""The support matrix: what every kernel family computes, as its variant declares it.

`python -m numba_fa.testing.support_matrix` prints docs/reference/support-matrix.md; `--write` writes it, and `--check`
fails when the page that lies there is another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.dispatch.device import CPU, HOPPER, Device
from numba_fa.dispatch.key import HeadDims
from numba_fa.dispatch.registry import variants
from numba_fa.dispatch.variant import Variant
from numba_fa.problem import biases, masks
from numba_fa.problem.arrays import ArrayView, dense_strides
from numba_fa.problem.dtypes import DTYPES
from numba_fa.problem.problem import Problem
from numba_fa.testing.cells import HEADS
from numba_fa.testing.shapes import Shape

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "support-matrix.md"
OWN_DIMS = {"values narrower than queries and keys": (192, 128), "values wider": (64, 256)}
DIRECTIONS = {"fwd": "forward", "bwd": "backward"}
HEAD_WORDS = {"mha": "as many key heads", "gqa": "several query heads a key head", "mqa": "one key head"}
DEVICES = {"Hopper GPUs (sm_90a)": HOPPER, "other GPUs": Device("another GPU", 0, "sm_80"), "CPU": CPU}
_ADDRESS, _SIZES = 1 << 40, (2, 48, 80)  # batch, seqlen_q, seqlen_k of a call that is asked for

_HEAD = """# Support matrix

Written by `python -m numba_fa.testing.support_matrix --write` from what the kernels declare; a test fails when this page
is another. What a family has in one table combines with all that it has in the others: any dtype with any head_dim, mask,
sequence of biases, sink_logits, heads and layout. `explain(...)` says which family a call gets, and why not another.
"""

# How an array (batch, seqlen, heads, head_dim) lies: strides in elements of its shape, and what is special about it.
_Strides = Callable[[tuple[int, ...]], tuple[int, ...]]
LAYOUTS: dict[str, _Strides] = {
    "(batch, seqlen, heads, head_dim) in memory": lambda shape: dense_strides(shape),
    "(batch, heads, seqlen, head_dim) in memory": lambda s: (s[1] * s[2] * s[3], s[3], s[1] * s[3], 1),
    "(seqlen, batch, heads, head_dim) in memory": lambda s: (s[2] * s[3], s[0] * s[2] * s[3], s[3], 1),
    "q, k, v side by side in one array": lambda s: tuple(3 * n for n in dense_strides(s)[:-1]) + (1,),
    "rows that start at any element": lambda s: ((s[3] + 1) * s[1] * s[2], (s[3] + 1) * s[2], s[3] + 1, 1),
    "one sequence for every batch entry (stride 0)": lambda s: (0, *dense_strides(s)[1:]),
    "a sequence backwards (negative stride)": lambda s: (dense_strides(s)[0], -s[2] * s[3], *dense_strides(s)[2:]),
}


def matrix() -> str:
    """The page."""
    families = list(dict.fromkeys(variant.family for op in DIRECTIONS for variant in variants(op)))
    head = ["", *families]
    lines = [_HEAD]
    for title, rows in _tables(families):
        lines += [f"## {title}", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {name} | {' | '.join('yes' if there else 'no' for there in found)} |" for name, found in rows]
        lines.append("")
    return "\n".join(lines)


def _tables(families: list[str]) -> Iterator[tuple[str, list[tuple[str, list[bool]]]]]:
    """(title, rows) of each table; a row is its name and whether each family has it."""
    forward = {variant.family: variant for variant in variants("fwd")}

    def table(names: dict[str, Callable[[Variant], bool]]) -> list[tuple[str, list[bool]]]:
        return [(name, [f in forward and has(forward[f]) for f in families]) for name, has in names.items()]

    made = {name: {variant.family for variant in variants(op)} for op, name in DIRECTIONS.items()}
    yield "Direction", [(name, [family in there for family in families]) for name, there in made.items()]
    yield "Runs on", table({name: lambda v, d=device: v.family in d.families for name, device in DEVICES.items()})
    yield "Dtypes", table({dtype.array_name: lambda v, d=dtype: d.name in v.dtypes for dtype in DTYPES.values()})
    dims_rows = {_range(dims): lambda v, d=dims: v.head_dims == d for dims in _head_dims(forward)}
    own = {name: lambda v, d=dims: _computes(v, dims=d) for name, dims in OWN_DIMS.items()}
    yield "head_dim", table(dims_rows | own)
    yield "Masks", table({_mask_name(kind): lambda v, k=kind: k in v.masks for kind in masks.KINDS})
    bias_rows = {f"`{made.__name__}`": lambda v, k=kind: k in v.biases for kind, made in biases.KINDS.items()}
    yield "Biases and sink", table(bias_rows | {"`sink_logits`": lambda v: v.sink})
    yield "Heads", table({
        f"{name.upper()}: {HEAD_WORDS[name]}": lambda v, h=heads: _computes(v, heads=h) for name, heads in HEADS.items()
    })
    yield "Layouts", table({name: lambda v, s=strides: _computes(v, strides=s) for name, strides in LAYOUTS.items()})
    yield "Lengths", table({
        "seqlen_q below, at and above seqlen_k": lambda v: all(_computes(v, seqlen_q=n) for n in (1, 80, 200)),
        "no keys at all (seqlen_k 0)": lambda v: _computes(v, seqlen_k=0),
    })  # fmt: skip


def _head_dims(forward: dict[str, Variant]) -> list[range]:
    return list(dict.fromkeys(variant.head_dims for variant in forward.values()))


def _range(dims: range) -> str:
    return f"{dims[0]} to {dims[-1]} in steps of {dims.step}"


def _mask_name(kind: str) -> str:
    name = {"all": "`a & b` (`All`)", "any": "`a \\| b` (`Any`)", "block": "`block_mask(...)`"}.get(kind)
    return name or f"`{masks.KINDS[kind].__name__}`" + (f', `"{kind}"`' if kind in masks.MASKS else "")


def _computes(
    variant: Variant, *, heads: tuple[int, int] = (2, 2), strides: _Strides = dense_strides, seqlen_q: int = _SIZES[1],
    seqlen_k: int = _SIZES[2], dims: tuple[int, int] = (64, 64),
) -> bool:  # fmt: skip
    """Whether the variant, asked, computes such a call on a device of its own."""
    device = next(device for device in DEVICES.values() if variant.family in device.families)
    dtype = next(dtype for dtype in DTYPES.values() if dtype.name in variant.dtypes)
    where = "cpu" if device is CPU else "cuda:0"
    q, k, v = Shape(_SIZES[0], seqlen_q, seqlen_k, *heads, HeadDims(*dims)).arrays
    views = [
        ArrayView(_ADDRESS * i, shape, strides(shape), dtype.array_name, dtype.itemsize, where)
        for i, shape in enumerate((q, k, v), 1)
    ]
    made = (*q[:3], v[3])
    out = replace(views[0], pointer=4 * _ADDRESS, shape=made, strides=dense_strides(made))
    return not variant.not_supported(Problem.from_views(*views, out=out), device)


def main() -> int:
    """Print, write or check the page; 1 when the check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the page")
    parser.add_argument("--check", action="store_true", help="fail when the page is stale")
    options = parser.parse_args()
    page = matrix()
    if options.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page)
    elif not options.check:
        print(page, end="")
    elif not PAGE.exists() or PAGE.read_text() != page:
        print(f"{PAGE} is stale; python -m numba_fa.testing.support_matrix --write makes it anew", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
