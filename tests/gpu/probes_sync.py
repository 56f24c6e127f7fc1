"""Probes of what orders threads: shuffles, named barriers, mbarrier phases, the register budget."""

import numpy as np

from numba_fa.jit import KernelSource, cuda, device, float32, int32, uint8
from numba_fa.ptx.mbarrier import fence_mbarrier_init, mbarrier_arrive, mbarrier_init, mbarrier_wait
from numba_fa.ptx.memory import ld_shared_u32, shared_address, st_shared_u32
from numba_fa.ptx.warp import (
    bar_arrive,
    bar_sync,
    bar_warp_sync,
    first_lane,
    make_setmaxnreg,
    shfl_bfly,
    vote_any,
    warp_uniform,
)
from tests.gpu.probe import Probe

TURNS = 6


def shuffle_probe():
    def kernel(out):
        thread = int32(cuda.threadIdx.x)
        value = float32(thread)
        out[8 * thread] = shfl_bfly(value, 1)
        out[8 * thread + 1] = shfl_bfly(value, 2)
        out[8 * thread + 2] = shfl_bfly(value, 4)
        out[8 * thread + 3] = shfl_bfly(value, 8)
        out[8 * thread + 4] = shfl_bfly(value, 16)
        out[8 * thread + 5] = shfl_bfly(value, 31)
        out[8 * thread + 6] = float32(warp_uniform(thread * 3 + 1))
        out[8 * thread + 7] = float32(vote_any(int32(thread == 40)))

    thread = np.arange(64)
    columns = [thread ^ mask for mask in (1, 2, 4, 8, 16, 31)] + [thread // 32 * 96 + 1, thread // 32]
    truth = np.stack(columns, axis=1).astype(np.float32)
    yield Probe("shuffles", KernelSource(kernel, ("float32*",), 64, 0), [np.full_like(truth, 7)], {0: truth})


def first_lane_probe():
    """Each warp by itself: nobody, all, lane 0, lane 31, and from lane 7 + turn on."""

    def kernel(out):
        thread = int32(cuda.threadIdx.x)
        lane = thread & 31
        out[5 * thread] = float32(first_lane(int32(0)))
        out[5 * thread + 1] = float32(first_lane(int32(1)))
        out[5 * thread + 2] = float32(first_lane(int32(lane == 0)))
        out[5 * thread + 3] = float32(first_lane(int32(lane == 31) * 256))
        out[5 * thread + 4] = float32(first_lane(int32(lane >= 7 + (thread >> 5))))

    truth = np.tile(np.float32([32, 0, 0, 31, 7]), (64, 1))
    truth[32:, 4] = 8
    yield Probe("first_lane", KernelSource(kernel, ("float32*",), 64, 0), [np.full_like(truth, -1)], {0: truth})


def named_barrier_probe():
    """Warp 0 writes and goes on (bar.arrive), warp 1 waits and reads; another barrier hands the room back."""

    def kernel(out):
        base = int32(shared_address(cuda.shared.array(0, uint8)))
        thread = int32(cuda.threadIdx.x)
        lane = thread & 31
        if thread >= 32:
            bar_arrive(2, 64)  # the room is free
        for turn in range(TURNS):
            if thread < 32:
                bar_sync(2, 64)
                st_shared_u32(int32(base + 4 * lane), 100 * turn + lane)
                bar_arrive(1, 64)
            else:
                bar_sync(1, 64)
                out[turn * 32 + lane] = float32(ld_shared_u32(int32(base + 4 * (31 - lane))))
                if turn < TURNS - 1:
                    bar_arrive(2, 64)

    truth = (100 * np.arange(TURNS)[:, None] + 31 - np.arange(32)).astype(np.float32)
    yield Probe("named_barriers", KernelSource(kernel, ("float32*",), 64, 128), [np.full_like(truth, 7)], {0: truth})


def warp_barrier_probe():
    """Lanes read what others of their warp wrote."""

    def kernel(out):
        base = int32(shared_address(cuda.shared.array(0, uint8)))
        thread = int32(cuda.threadIdx.x)
        for turn in range(TURNS):
            st_shared_u32(int32(base + 4 * thread), thread + turn)
            bar_warp_sync(-1)
            out[turn * 64 + thread] = float32(ld_shared_u32(int32(base + 4 * (thread ^ 31))))
            bar_warp_sync(-1)

    truth = (np.arange(TURNS)[:, None] + (np.arange(64) ^ 31)).astype(np.float32)
    yield Probe("warp_barriers", KernelSource(kernel, ("float32*",), 64, 256), [np.full_like(truth, 7)], {0: truth})


def mbarrier_probe():
    """Phases of two arrivals. A wait for the phase before the first passes, and so does one for a phase that is over."""

    def kernel(out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 15) & ~15)
        full, empty = int32(base + 128), int32(base + 136)
        thread = int32(cuda.threadIdx.x)
        if thread == 0:
            mbarrier_init(full, 2)
            mbarrier_init(empty, 32)
            fence_mbarrier_init()
        cuda.syncthreads()
        for turn in range(TURNS):
            if thread < 2:
                mbarrier_wait(empty, (turn & 1) ^ 1)  # at the first turn there was nothing before
                st_shared_u32(int32(base + 4 * thread), 10 * turn + thread)
                mbarrier_arrive(full)
            elif thread >= 32:
                mbarrier_wait(full, turn & 1)
                mbarrier_wait(full, turn & 1)  # over, so it passes again
                for i in range(2):
                    out[(turn * 32 + thread - 32) * 2 + i] = float32(ld_shared_u32(int32(base + 4 * i)))
                mbarrier_arrive(empty)

    truth = np.broadcast_to((10 * np.arange(TURNS)[:, None, None] + np.arange(2)), (TURNS, 32, 2)).astype(np.float32)
    yield Probe("mbarriers", KernelSource(kernel, ("float32*",), 64, 160), [np.full_like(truth, 7)], {0: truth})


def register_probe():
    """One warpgroup gives registers away, two take them; what they hold stays."""
    shrink, grow = make_setmaxnreg(24, "dec"), make_setmaxnreg(240, "inc")

    @device
    def value_of(thread):
        return float32(thread * 3)

    def kernel(out):
        thread = int32(cuda.threadIdx.x)
        value = value_of(thread)
        if thread < 128:
            shrink()
        else:
            grow()
        out[thread] = value + value

    truth = (6 * np.arange(384)).astype(np.float32)
    yield Probe("setmaxnreg", KernelSource(kernel, ("float32*",), 384, 0), [np.full_like(truth, 7)], {0: truth})


def probes():
    yield from shuffle_probe()
    yield from first_lane_probe()
    yield from named_barrier_probe()
    yield from warp_barrier_probe()
    yield from mbarrier_probe()
    yield from register_probe()
