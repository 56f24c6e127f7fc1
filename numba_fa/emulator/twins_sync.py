"""Twins of `ptx/mbarrier.py` and `ptx/warp.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError
from numba_fa.emulator.threads import current


def mbarrier_init(address: int, count: int) -> None:
    """Make a barrier."""
    current().block.init_mbarrier(int(address), int(count))


def mbarrier_expect_tx(address: int, size: int) -> None:
    """Arrive and announce bytes."""
    current().block.mbarrier(int(address)).arrive(int(size))


def mbarrier_arrive(address: int) -> None:
    """Arrive."""
    current().block.mbarrier(int(address)).arrive()


def mbarrier_wait(address: int, parity: int) -> None:
    """Until the phase of `parity` is over."""
    if parity not in (0, 1):
        raise EmulationError(f"mbarrier parity {parity}")
    current().block.mbarrier(int(address)).wait(int(parity))


def fence_mbarrier_init() -> None:
    """Barriers made so far may be used by copies."""
    for barrier in current().block.mbarriers.values():
        barrier.fenced = True


def bar_sync(number: int, size: int) -> None:
    """Arrive and wait at a numbered barrier."""
    current().block.named_barrier(int(number)).come(int(size), wait=True)


def bar_arrive(number: int, size: int) -> None:
    """Arrive at a numbered barrier and go on."""
    current().block.named_barrier(int(number)).come(int(size), wait=False)


def bar_warp_sync(mask: int) -> None:
    """The lanes of a warp meet."""
    if int(mask) & 0xFFFFFFFF != 0xFFFFFFFF:
        raise EmulationError(f"bar_warp_sync of the lanes {int(mask) & 0xFFFFFFFF:#x}; only whole warps are emulated")
    block = current().block

    def combine(values: dict[int, None]) -> dict[int, None]:
        block.order.join(list(values))
        return values

    block.threads.meet("bar_warp_sync", 32, None, combine)


def shfl_bfly(value: np.float32, mask: int) -> Any:
    """The value of the lane whose number differs in the bits of `mask`."""

    def combine(values: dict[int, Any]) -> dict[int, Any]:
        return {index: values[index ^ values[index][1]][0] for index in values}

    return current().block.threads.meet("shfl_bfly", 32, (np.float32(value), int(mask) & 31), combine)


def vote_any(value: int) -> Any:
    """1 in every lane when the value is not 0 in any."""

    def combine(values: dict[int, Any]) -> dict[int, Any]:
        return dict.fromkeys(values, int(any(values.values())))

    return current().block.threads.meet("vote_any", 32, int(value), combine)


def warp_uniform(value: int) -> Any:
    """Lane 0's value."""

    def combine(values: dict[int, Any]) -> dict[int, Any]:
        return dict.fromkeys(values, next(iter(values.values())))

    return current().block.threads.meet("warp_uniform", 32, int(value), combine)


def first_lane(value: int) -> int:
    """The first lane that has one, 32 for none."""

    def combine(values: dict[int, Any]) -> dict[int, Any]:
        lanes = [thread % 32 for thread, there in values.items() if there]
        return dict.fromkeys(values, min(lanes, default=32))

    return current().block.threads.meet("first_lane", 32, int(value), combine)


# Registers of a multiprocessor, and the unit in which a thread's are given.
_REGISTER_FILE, _REGISTER_UNIT = 65536, 8


def setmaxnreg(registers: int, direction: str) -> None:
    """Waits for the whole warpgroup, and for registers: a block has what it was launched with and no more.

    It is launched with as many a thread as fit, in units of 8. When all warpgroups have set theirs and together want more,
    the hardware waits for ever for registers that nobody gives back; here that is an EmulationError.
    """
    if registers % 8 or not 24 <= registers <= 256:
        raise EmulationError(f"setmaxnreg {registers}; a multiple of 8 from 24 to 256 is wanted")
    thread = current()
    block, group = thread.block, thread.index // 128

    def combine(values: dict[int, Any]) -> dict[int, Any]:
        block.record("setmaxnreg", group * 128, registers)
        block.registers[group] = registers
        groups = block.size // 128
        launched = min(_REGISTER_FILE // block.size, 255) // _REGISTER_UNIT * _REGISTER_UNIT
        if len(block.registers) == groups and sum(block.registers.values()) > launched * groups:
            wanted = ", ".join(map(str, block.registers.values()))
            raise EmulationError(
                f"the warpgroups want {wanted} registers a thread; {groups} groups were launched with {launched} each"
            )
        return dict.fromkeys(values)

    block.threads.meet(("setmaxnreg", registers, direction), 128, None, combine)


TWINS = (
    mbarrier_init, mbarrier_expect_tx, mbarrier_arrive, mbarrier_wait, fence_mbarrier_init, bar_sync, bar_arrive,
    bar_warp_sync, shfl_bfly, vote_any, first_lane, warp_uniform, setmaxnreg,
)  # fmt: skip
