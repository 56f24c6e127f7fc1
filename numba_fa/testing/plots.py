"""Pictures of measured speed: `python -m numba_fa.testing.plots` draws docs/images/ from docs/findings/speed-h200.txt.

The text is what `python -m numba_fa.testing.speed` printed. One picture has TFLOP/s over seqlen beside the peers, a panel a
problem; the other our kernels under the roofline: what a chip can compute, and what it can read and write.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numba_fa.dispatch.key import DispatchKey, HeadDims
from numba_fa.testing.shapes import HIDDEN, TOKENS, Shape

OURS = "numba_fa"
NAMES = {OURS: "numba_fa", "cudnn": "cuDNN", "fa2": "FlashAttention 2", "fa3": "FlashAttention 3", "fa4": "FlashAttention 4"}
COLORS = {OURS: "tab:blue", "cudnn": "tab:green", "fa2": "tab:orange"}


@dataclass(frozen=True)
class Ceiling:
    """What a chip's maker promises: dense 16-bit TFLOP/s, and TB/s of its memory."""

    compute: float
    bandwidth: float


# By a word of the device's name: NVIDIA's data sheets of the SXM cards.
CEILINGS = {"H200": Ceiling(989, 4.8), "H100": Ceiling(989, 3.35), "B200": Ceiling(2250, 8.0)}


class Problem(NamedTuple):
    """What kernels are compared on."""

    dims: HeadDims
    mask: str

    def __str__(self) -> str:
        return f"head_dim {self.dims}, {self.mask}"


@dataclass(frozen=True)
class Speeds:
    """What was printed. rates: by (problem, seqlen), TFLOP/s of each contender; of several kernels for one, the last's."""

    device: str
    versions: str
    rates: dict[tuple[Problem, int], dict[str, float]]

    @property
    def problems(self) -> list[Problem]:
        """In the order printed."""
        return list(dict.fromkeys(problem for problem, _ in self.rates))

    def series(self, problem: Problem) -> dict[str, dict[int, float]]:
        """Contender -> {seqlen: TFLOP/s}; ours by a kernel or several, each for its lengths."""
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for (other, seqlen), rates in self.rates.items():
            if other == problem:
                for name, rate in rates.items():
                    found[name][seqlen] = rate
        return dict(found)

    @property
    def ceiling(self) -> Ceiling | None:
        """Of the device, where known."""
        return next((ceiling for word, ceiling in CEILINGS.items() if word in self.device), None)


def parse(text: str) -> Speeds:
    """What `numba_fa.testing.speed` printed; ValueError where it is something else."""
    heading, *lines = [line for line in text.splitlines() if line.strip()]
    device, _, versions = heading.partition(", ")
    table = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]
    if not table or table[0][:3] != ["kernel", "seqlen", OURS] or not versions:
        raise ValueError("no table of numba_fa.testing.speed")
    contenders = [name for name in table[0][2:] if not name.startswith("over")]
    rates = {}
    for slug, seqlen, *cells in table[2:]:
        key = DispatchKey.parse(slug)
        if not seqlen.isdigit():  # a shape of its own
            continue
        problem = Problem(key.dims, key.mask)
        rates[problem, int(seqlen)] = {n: float(cell) for n, cell in zip(contenders, cells) if re.fullmatch(r"[\d.]+", cell)}
    return Speeds(device, versions, rates)


def intensity(problem: Problem, seqlen: int) -> tuple[float, float]:
    """(operations, bytes that must move) of a speed workload: q, k, v and out once, 16 bits an element."""
    shape = Shape.usual(problem.dims, seqlen)
    q, k, v = map(math.prod, shape.arrays)
    return shape.flops(problem.mask), 2 * (q + k + 2 * v)  # as many heads of values as of results


def draw_speeds(speeds: Speeds, path: Path) -> None:
    """TFLOP/s over seqlen, a panel a problem."""
    pyplot = _pyplot()
    problems = speeds.problems
    rows = -(-len(problems) // 2)
    figure, panels = pyplot.subplots(rows, 2, figsize=(9, 2.6 * rows + 0.4), layout="constrained", squeeze=False)
    for panel in panels.flat[len(problems) :]:
        panel.set_visible(False)
    for panel, problem in zip(panels.flat, problems):
        for name, points in speeds.series(problem).items():
            style = {"color": COLORS.get(name), "marker": "o", "markersize": 3, "linewidth": 2 if name == OURS else 1.2}
            panel.plot(list(points), list(points.values()), label=NAMES.get(name, name), **style)
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(points), [f"{n // 1024}k" if n >= 1024 else str(n) for n in points])
        panel.set_ylim(bottom=0)
        panel.set_title(str(problem), fontsize=9)
        panel.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=8)
    figure.supylabel("TFLOP/s, forward")
    figure.supxlabel(f"seqlen ({TOKENS} tokens, hidden size {HIDDEN})")
    figure.suptitle(f"{speeds.device}; {speeds.versions.removesuffix(', TFLOP/s')}", fontsize=8)
    _save(figure, path)


def draw_roofline(speeds: Speeds, path: Path) -> None:
    """Our rates over operations a byte, under the device's ceilings; ValueError where they are not known."""
    ceiling = speeds.ceiling
    if ceiling is None:
        raise ValueError(f"no ceilings known of {speeds.device}; known: {', '.join(CEILINGS)}")
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    ridge = ceiling.compute / ceiling.bandwidth
    axes.plot([ridge / 8, ridge, 16384], [ceiling.compute / 8, ceiling.compute, ceiling.compute], color="black")
    axes.text(ridge, ceiling.compute * 1.04, f"{ceiling.compute:g} TFLOP/s, {ceiling.bandwidth:g} TB/s", fontsize=8)
    for problem in speeds.problems:
        points = []
        for seqlen, rate in speeds.series(problem)[OURS].items():
            flops, size = intensity(problem, seqlen)
            points.append((flops / size, rate))
        style = "o--" if problem.mask == "causal" else "o-"
        axes.plot(*zip(*points), style, markersize=4, linewidth=1, label=str(problem))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("operations a byte of q, k, v and out")
    axes.set_ylabel("TFLOP/s, forward")
    axes.set_title(f"{speeds.device}; {speeds.versions.removesuffix(', TFLOP/s')}", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = OURS  # the same picture, the same file
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=150, metadata=metadata)
    _pyplot().close(figure)
    print(path)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", type=Path, default=Path("docs/findings/speed-h200.txt"))
    parser.add_argument("--to", type=Path, default=Path("docs/images"), help="folder")
    parser.add_argument("--format", default="svg", choices=["svg", "png"])
    options = parser.parse_args()
    speeds = parse(options.text.read_text())
    draw_speeds(speeds, options.to / f"{options.text.stem}.{options.format}")
    draw_roofline(speeds, options.to / f"{options.text.stem.replace('speed', 'roofline')}.{options.format}")


if __name__ == "__main__":
    main()
