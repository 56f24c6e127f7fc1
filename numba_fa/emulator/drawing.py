"""A trace's timeline, drawn by matplotlib (of the extra `demo`), which is imported when a picture is asked for."""

from __future__ import annotations

from os import PathLike
from typing import Any

from numba_fa.emulator.trace import Event, Place, Trace

_COLOURS = {
    "tma_load": "tab:blue", "bulk_load": "royalblue", "tma_store": "tab:cyan", "wgmma": "salmon", "mbarrier_wait": "silver",
    "barrier_wait": "dimgrey", "setmaxnreg": "tab:purple",
}  # fmt: skip
_LABELS = {
    "tma_load": "TMA load in flight", "bulk_load": "bulk load in flight", "tma_store": "TMA store in flight",
    "wgmma": "tensor cores",
    "mbarrier_wait": "waits for an mbarrier", "barrier_wait": "waits at a named barrier", "setmaxnreg": "register budget",
}  # fmt: skip
_POINTS = {"mbarrier_phase": "mbarrier phase over", "barrier": "named barrier complete"}
_WARP, _WARPGROUP = 32, 128
_SPREAD = 4  # loads in flight at once that are told apart


def draw(trace: Trace, path: str | PathLike[str] | None, block: Place | None) -> Any:
    """As `Trace.draw`."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError("drawing a trace needs matplotlib: pip install 'numba_fa[demo]'") from error
    events = _events_of(trace, block)
    warps = 1 + max((_last_warp(event) for event in events), default=0)
    steps = 1 + max((event.end for event in events), default=0)
    figure = Figure(figsize=(min(6 + steps / 16, 24), 2 + 0.4 * warps), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _bars(axes, events)
    _points(axes, events)
    axes.set(xlim=(0, steps), ylim=(warps, -1), xlabel="event of the block: an order, not time", ylabel="warp")
    axes.set_yticks(range(warps))
    where = events[0].block if events else block
    axes.set_title(f"{trace.title} block {where}".strip())
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _events_of(trace: Trace, block: Place | None) -> list[Event]:
    if not trace.events:
        return []
    wanted = trace.events[0].block if block is None else tuple(block)
    events = [event for event in trace.events if event.block == wanted]
    if not events:
        raise KeyError(f"block {wanted} did not run; these did: {trace.blocks[:8]}")
    return events


def _last_warp(event: Event) -> int:
    return max(event.thread, 0) // _WARP + (3 if event.kind in ("wgmma", "setmaxnreg") else 0)


def _bars(axes: Any, events: list[Event]) -> None:
    """A warpgroup's products cover its four lanes, two at once half of them each; waits lie thin before them."""
    named, under_way = set(), {}
    for event in sorted((event for event in events if event.kind in _COLOURS), key=lambda event: "wait" in event.kind):
        warp, width = event.thread // _WARP, max(event.end - event.step, 0.6)
        ends = under_way.setdefault((event.kind[:3], warp), {})
        if event.kind == "wgmma":
            low, height = event.thread // _WARPGROUP * 4 - 0.4 + 2 * _free_place(ends, event, 2), 1.8
        elif event.kind == "setmaxnreg":
            low, height = event.thread // _WARPGROUP * 4 - 0.4, 3.8
        elif event.kind.startswith(("tma", "bulk")):
            low, height = warp - 0.45 + 0.22 * _free_place(ends, event, _SPREAD), 0.2
        else:
            low, height = warp - 0.15, 0.3
        label = None if event.kind in named else _LABELS[event.kind]
        named.add(event.kind)
        axes.broken_barh([(event.step, width)], (low, height), facecolor=_COLOURS[event.kind], label=label)


def _free_place(ends: dict[int, int], event: Event, places: int) -> int:
    """Which of so many strips is free when the event begins."""
    place = next((i for i in range(places) if ends.get(i, -1) <= event.step), min(ends, key=ends.__getitem__, default=0))
    ends[place] = event.end
    return place


def _points(axes: Any, events: list[Event]) -> None:
    for kind, label in _POINTS.items():
        steps = [event.step for event in events if event.kind == kind]
        if steps:
            colour = "tab:green" if kind == "barrier" else "black"
            axes.plot(steps, [-0.7] * len(steps), "|", color=colour, label=label, markersize=7)
