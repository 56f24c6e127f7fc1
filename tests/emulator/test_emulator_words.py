"""Words that threads hand each other through shared memory, ordered by mbarriers or not."""

import numpy as np
import pytest
from numba import cuda

from numba_fa.emulator import EmulationError, HazardError, run_kernel
from numba_fa.jit import KernelSource, int32, uint8
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_init, mbarrier_wait
from numba_fa.ptx.memory import ld_shared_u32, shared_address, st_shared_u32
from numba_fa.ptx.warp import bar_sync

STEPS = 5


def run(function, *arguments, signature=(), threads=64, seed=0):
    return run_kernel(KernelSource(function, signature, threads, 64), (1, 1, 1), arguments, seed=seed)


def make_messages(omit=None):
    """Thread 0 sends STEPS words through one slot; warp 1 receives them. `omit` names the wait to leave out."""

    def messages(out):
        full = shared_address(cuda.shared.array(0, uint8))
        empty, word = full + 8, full + 16
        thread = int32(cuda.threadIdx.x)
        if thread == 0:
            mbarrier_init(full, 1)
            mbarrier_init(empty, 1)
        cuda.syncthreads()
        for step in range(STEPS):
            if thread == 0:
                if omit != "empty":
                    mbarrier_wait(empty, step & 1 ^ 1)
                st_shared_u32(word, 7 - 3 * step)
                mbarrier_arrive(full)
            elif thread >= 32:
                if omit != "full":
                    mbarrier_wait(full, step & 1)
                value = ld_shared_u32(word)
                bar_sync(1, 32)
                if thread == 32:
                    mbarrier_arrive(empty)
                out[STEPS * (thread - 32) + step] = value

    return messages


def test_messages_arrive():
    out = np.zeros(32 * STEPS, np.float32)
    run(make_messages(), out, signature=("float32*",))
    assert np.array_equal(out.reshape(32, STEPS), np.tile(7 - 3 * np.arange(STEPS), (32, 1)))


@pytest.mark.parametrize("wait", ["empty", "full"])
def test_a_missing_wait_is_a_hazard(wait):
    caught = 0
    for seed in range(8):
        try:
            run(make_messages(wait), np.zeros(32 * STEPS, np.float32), signature=("float32*",), seed=seed)
        except EmulationError:
            caught += 1
    assert caught == 8


def test_unwritten_misaligned_and_outside():
    def kernel(offset):
        base = shared_address(cuda.shared.array(0, uint8))
        if cuda.threadIdx.x == 0:
            ld_shared_u32(base + offset)

    with pytest.raises(HazardError, match="unwritten"):
        run(kernel, 0, signature=("int32",))
    for offset in (2, -4, 64):
        with pytest.raises(EmulationError, match="misaligned or outside"):
            run(kernel, offset, signature=("int32",))


def test_a_word_is_signed_and_wraps():
    def kernel(out):
        word = shared_address(cuda.shared.array(0, uint8))
        if cuda.threadIdx.x == 0:
            st_shared_u32(word, 0xFFFFFFFE)
            out[0] = ld_shared_u32(word)

    out = np.zeros(1, np.float32)
    run(kernel, out, signature=("float32*",))
    assert out[0] == -2
