"""What a run did, as a list of events with totals, a summary and a picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

Place = tuple[int, int, int]
_LOADS = ("tma_load", "bulk_load", "global_load")


@dataclass(slots=True)
class Event:
    """One instruction's effect.

    kind: "tma_load" and "bulk_load" (from issue to landing), "tma_store" (until it has read its source), "store_at_exit"
    (a TMA store whose source nobody waited for before the block's end), "wgmma" (from issue to the wait that ends it),
    "mbarrier_phase" and "barrier" (complete), "mbarrier_wait" and "barrier_wait" (a warp's threads stood there),
    "global_load" and "global_store" (a warp's plain accesses of the whole block's run), "setmaxnreg".
    thread: who issued it, of a warp or warpgroup its first; -1 where it is no one's. amount: bytes moved, multiply-adds
    times two, threads of a barrier, or registers. address: of shared memory, or a barrier's number. step, end: when it
    began and ended, counted in events of its block: an order, not a duration. note: more, in words.
    """

    kind: str
    block: Place
    thread: int
    amount: int = 0
    address: int = 0
    step: int = 0
    end: int = 0
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """Totals of a trace; as text, a table."""

    blocks: int
    loads: int
    bytes_loaded: int
    stores: int
    bytes_stored: int
    tensor_operations: dict[int, int]
    mbarrier_phases: int
    barriers: int

    def __str__(self) -> str:
        lines = [
            f"blocks           {self.blocks}",
            f"loads            {self.loads}, {self.bytes_loaded} bytes",
            f"stores           {self.stores}, {self.bytes_stored} bytes",
        ]
        for warpgroup, operations in sorted(self.tensor_operations.items()):
            lines.append(f"tensor cores     warpgroup {warpgroup}: {operations} operations")
        return "\n".join([*lines, f"mbarrier phases  {self.mbarrier_phases}", f"named barriers   {self.barriers}"])


@dataclass
class Trace:
    """Events in the order in which they began; blocks run one after another. title: what ran."""

    events: list[Event] = field(default_factory=list)
    title: str = ""

    def count(self, kind: str) -> int:
        """How many events of a kind."""
        return sum(event.kind == kind for event in self.events)

    def total(self, kind: str) -> int:
        """Sum of the amounts of a kind."""
        return sum(event.amount for event in self.events if event.kind == kind)

    @property
    def blocks(self) -> list[Place]:
        """The blocks that ran, in order."""
        return list(dict.fromkeys(event.block for event in self.events))

    @property
    def bytes_loaded(self) -> int:
        """Bytes of TMA loads, boxes counted whole, of bulk loads, and of plain loads from global memory."""
        return sum(self.total(kind) for kind in _LOADS)

    @property
    def bytes_stored(self) -> int:
        """Bytes of TMA stores, boxes counted whole, and of plain stores to global memory."""
        return self.total("tma_store") + self.total("global_store")

    @property
    def tensor_operations(self) -> dict[int, int]:
        """Floating-point operations of tensor cores by warpgroup of a block, over all blocks."""
        sums: Counter[int] = Counter()
        for event in self.events:
            if event.kind == "wgmma":
                sums[event.thread // 128] += event.amount
        return dict(sums)

    def summary(self) -> Summary:
        """Bytes moved, tensor-core operations by warpgroup, barriers."""
        return Summary(
            blocks=len(self.blocks),
            loads=sum(self.count(kind) for kind in _LOADS),
            bytes_loaded=self.bytes_loaded,
            stores=self.count("tma_store") + self.count("global_store"),
            bytes_stored=self.bytes_stored,
            tensor_operations=self.tensor_operations,
            mbarrier_phases=self.count("mbarrier_phase"),
            barriers=self.count("barrier"),
        )

    def draw(self, path: str | PathLike[str] | None = None, *, block: Place | None = None) -> Any:
        """A timeline of one block (the first), a lane a warp, as a matplotlib Figure; written to `path` if given.

        ImportError when matplotlib is missing, KeyError when the block did not run.
        """
        from numba_fa.emulator.drawing import draw

        return draw(self, path, block)
