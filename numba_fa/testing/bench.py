"""`numba-fa bench`: checks, then times, our kernel and every installed peer on a named workload; a table and a plot.

Everything takes turns in one process. A result that is wrong is told and not timed. Operations are those of the visible
pairs, two a column of head_dim and two a column of head_dim_v. On a machine without a GPU the CPU kernel runs beside
torch's, at a smaller size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba_fa
from numba_fa.testing.peers import NotTaken, peers
from numba_fa.testing.timing import median_time, median_wall_time
from numba_fa.testing.workloads import WORKLOADS, Request, Workload, truth, visible_pairs

OURS = "numba_fa"
# Relative error of an output: roundings of inputs' products and of the result.
ALLOWED = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Result:
    """One contender: milliseconds and TFLOP/s, or a note why there are none. error: relative, of the heads checked."""

    name: str
    milliseconds: float | None = None
    rate: float | None = None
    error: float | None = None
    note: str = ""


def show() -> None:
    """Print the workloads."""
    for name, w in WORKLOADS.items():
        heads = f"{w.heads} heads" if w.heads == w.heads_kv else f"{w.heads} heads over {w.heads_kv}"
        print(f"{name:20}{w.about}: batch {w.batch}, seqlen {w.seqlen}, {heads}, head_dim {w.head_dim}")


def bench(name: str, dtype: str, repeats: int, without: tuple[str, ...], picture: Path | None) -> int:
    """Measure a workload, print a table and write a plot; how many results were wrong."""
    import torch

    if name not in WORKLOADS:
        raise ValueError(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
    on_gpu = torch.cuda.is_available()
    title = f"{name}, {describe(WORKLOADS[name], on_gpu)}, {dtype}"
    print(f"{title}\n{where(on_gpu)}", flush=True)
    results = measure(WORKLOADS[name], dtype, repeats, without)
    for line in table(results):
        print(line)
    if picture is not None:
        print(draw(results, f"{title}\n{where(on_gpu)}", picture))
    return sum(result.note.startswith("wrong") for result in results)


def describe(workload: Workload, on_gpu: bool) -> str:
    """The shapes, in words."""
    q, k, v = workload.shape(on_gpu).arrays
    return f"{workload.about}: q {q}, " + (f"k and v {k}" if k == v else f"k {k}, v {v}")


def where(on_gpu: bool) -> str:
    """Device and versions."""
    import torch

    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    names = ("torch", "numba-cuda" if on_gpu else "numba")
    cudnn = f", cuDNN {torch.backends.cudnn.version()}" if on_gpu else ""
    return f"{device}, numba_fa {numba_fa.__version__}, {', '.join(f'{n} {version(n)}' for n in names)}{cudnn}"


def measure(workload: Workload, dtype: str, repeats: int, without: tuple[str, ...] = ()) -> list[Result]:
    """Every contender's result, ours first."""
    import torch

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.manual_seed(0)
    shape = workload.shape(on_gpu)
    q, k, v = (torch.randn(size, device=device).to(getattr(torch, dtype)) for size in shape.arrays)
    request = workload.ask(q)
    makers: dict[str, Callable[..., Callable[[], Any]]] = {OURS: ours}
    makers |= {name: make for name, make in peers(on_gpu).items() if name not in without}
    checked = {name: check(name, make, request, q, k, v, ALLOWED[dtype]) for name, make in makers.items()}
    runs = {name: run for name, (_, run) in checked.items() if run is not None}
    times = (median_time if on_gpu else median_wall_time)(runs, repeats=repeats)
    flops = 2 * visible_pairs(request, shape.batch, shape.seqlen_q, device) * shape.heads * sum(shape.dims)
    return [timed(found, times.get(name), flops) for name, (found, _) in checked.items()]


def timed(found: Result, milliseconds: float | None, flops: int) -> Result:
    """The result with its time and rate."""
    if milliseconds is None:
        return found
    return Result(found.name, milliseconds, flops / milliseconds / 1e9, found.error, found.note)


def ours(request: Request, q: Any, k: Any, v: Any) -> Callable[[], Any]:
    """Our kernel through a plan, which is what a model's layers reuse."""
    plan, out = numba_fa.plan(q, k, v, **request.ours), q.new_empty((*q.shape[:3], v.shape[3]))

    def run() -> Any:
        plan.run(q, k, v, out)
        return out

    run.note = plan.key.slug  # type: ignore[attr-defined]
    return run


def check(
    name: str, make: Callable[..., Callable[[], Any]], request: Request, q: Any, k: Any, v: Any, allowed: float
) -> tuple[Result, Callable[[], Any] | None]:
    """(the result without times, what to time): nothing where it cannot compute the request or computes another."""
    try:
        run = make(request, q, k, v)
        out = run()
    except NotTaken as reason:
        return Result(name, note=f"not taken: {reason}"), None
    except Exception as error:  # whatever a peer raises is its answer
        if name == OURS:
            raise
        return Result(name, note=f"refused: {_first_line(error)}"), None
    error = max(_error(request, q, k, v, out, b, h) for b, h in {(0, 0), (q.shape[0] - 1, q.shape[2] - 1)})
    if not error <= allowed:
        return Result(name, error=error, note=f"wrong: relative error {error:.1e} above {allowed:.0e}"), None
    return Result(name, error=error, note=getattr(run, "note", "")), run


def _error(request: Request, q: Any, k: Any, v: Any, out: Any, b: int, h: int) -> float:
    wanted = truth(request, q, k, v, b, h)
    return float((out[b, :, h].float() - wanted).norm() / wanted.norm())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:70]


def table(results: list[Result]) -> list[str]:
    """Lines of Markdown."""
    mine = results[0].milliseconds
    lines = ["| contender | ms | TFLOP/s | numba_fa is faster by | relative error | |", "|---|---|---|---|---|---|"]
    for r in results:
        ratio = f"{r.milliseconds / mine:.2f}" if r.milliseconds and mine else ""
        cells = (_number(r.milliseconds, ".4g"), _number(r.rate, ".3g"), ratio, _number(r.error, ".1e"))
        lines.append(f"| {r.name} | " + " | ".join(cells) + f" | {r.note} |")
    return lines


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def draw(results: list[Result], title: str, path: Path) -> str:
    """A bar a contender; what was written, or why nothing was."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return "no plot: matplotlib is not installed"
    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = [result for result in reversed(results) if result.rate is not None]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.45 * len(shown)), layout="constrained")
    colors = ["tab:blue" if result.name == OURS else "tab:gray" for result in shown]
    axes.bar_label(axes.barh([r.name for r in shown], [r.rate for r in shown], color=colors), fmt="%.3g", padding=3)
    axes.set_xlabel("TFLOP/s")
    axes.set_title(title, fontsize=7)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return f"plot {path}"
