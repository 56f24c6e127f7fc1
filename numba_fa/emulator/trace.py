"""What a run did, as a list of events with totals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Event:
    """One instruction's effect.

    kind: "tma_load", "tma_store", "store_at_exit" (a TMA store whose source nobody waited for before the block's
    end), "wgmma", "mbarrier_phase", "barrier", "setmaxnreg". thread: who issued it, of a warpgroup its first; -1
    where it is no one's. amount: bytes moved, multiply-adds times two, or threads of a barrier. address: of shared
    memory, or a barrier's number.
    """

    kind: str
    block: tuple[int, int, int]
    thread: int
    amount: int = 0
    address: int = 0


@dataclass
class Trace:
    """Events in the order in which they happened; blocks run one after another."""

    events: list[Event] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """How many events of a kind."""
        return sum(event.kind == kind for event in self.events)

    def total(self, kind: str) -> int:
        """Sum of the amounts of a kind."""
        return sum(event.amount for event in self.events if event.kind == kind)

    @property
    def bytes_loaded(self) -> int:
        """Bytes of TMA loads, boxes counted whole."""
        return self.total("tma_load")

    @property
    def bytes_stored(self) -> int:
        """Bytes of TMA stores, boxes counted whole."""
        return self.total("tma_store")

    @property
    def tensor_operations(self) -> dict[int, int]:
        """Floating-point operations of tensor cores by warpgroup of a block, over all blocks."""
        sums: Counter[int] = Counter()
        for event in self.events:
            if event.kind == "wgmma":
                sums[event.thread // 128] += event.amount
        return dict(sums)
