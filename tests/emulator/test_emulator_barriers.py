"""Barriers, meetings, scalar shared memory and global memory in kernels of a few lines."""

import numpy as np
import pytest
from numba import cuda

from numba_fa.emulator import Deadlock, EmulationError, FlatPointer, GlobalMemory, HazardError, run_kernel
from numba_fa.jit import KernelSource, device, float32, int32, uint8, uint16
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_expect_tx, mbarrier_init, mbarrier_wait
from numba_fa.ptx.memory import shared_address, st_global_f32
from numba_fa.ptx.warp import bar_arrive, bar_sync, make_setmaxnreg, shfl_bfly, warp_uniform


def run(function, *arguments, signature=(), threads=64, shared_bytes=64, seed=0, grid=(1, 1, 1)):
    return run_kernel(KernelSource(function, signature, threads, shared_bytes), grid, arguments, seed=seed)


def test_mbarrier_counts_arrivals_in_each_phase():
    order = []

    def kernel():
        barrier = shared_address(cuda.shared.array(0, uint8))
        thread = cuda.threadIdx.x
        if thread == 0:
            mbarrier_init(barrier, 63)
        cuda.syncthreads()
        for phase in range(3):
            if thread == 0:
                mbarrier_wait(barrier, phase & 1)
                order.append(("passed", phase))
            else:
                order.append(("arrives", phase))
                mbarrier_arrive(barrier)
            cuda.syncthreads()

    trace = run(kernel)
    assert order == [x for phase in range(3) for x in [("arrives", phase)] * 63 + [("passed", phase)]]
    assert trace.count("mbarrier_phase") == 3


def test_mbarrier_wait_for_the_phase_before_the_first_passes():
    def kernel():
        barrier = shared_address(cuda.shared.array(0, uint8))
        if cuda.threadIdx.x == 0:
            mbarrier_init(barrier, 1)
            mbarrier_wait(barrier, 1)

    assert run(kernel).count("mbarrier_phase") == 0


def test_deadlock_names_threads_and_barriers():
    def kernel():
        barrier = shared_address(cuda.shared.array(0, uint8))
        thread = cuda.threadIdx.x
        if thread == 0:
            mbarrier_init(barrier, 2)
        cuda.syncthreads()
        if thread < 32:
            bar_sync(3, 64)
        elif thread < 40:
            mbarrier_wait(barrier, 0)
        elif thread == 50:
            mbarrier_arrive(barrier)
        elif thread > 60:
            shfl_bfly(1.0, 1)

    with pytest.raises(Deadlock) as caught:
        run(kernel)
    text = str(caught.value)
    assert "threads 0..31 wait for barrier 3 (32 of 64 threads there)" in text
    assert "threads 32..39 wait for mbarrier 0" in text and "parity 0 (1 of 2 arrivals missing" in text
    assert "threads 61..63 wait for threads 32..63 to meet at shfl_bfly" in text


@pytest.mark.parametrize(
    ("count", "size", "words"), [(2, 33, "multiple of 32"), (1, 64, "more than its 1 arrivals"), (0, 64, "at least 1")]
)
def test_misused_barriers(count, size, words):
    def kernel():
        barrier = shared_address(cuda.shared.array(0, uint8))
        if cuda.threadIdx.x == 0:
            mbarrier_init(barrier, count)
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            bar_arrive(1, size)
            mbarrier_expect_tx(barrier, 16)  # keeps the phase open, so that one more arrival is one too many
            mbarrier_arrive(barrier)

    with pytest.raises(EmulationError, match=words):
        run(kernel)


def test_named_barrier_orders_and_repeats():
    seen = []

    def kernel():
        for turn in range(3):
            if cuda.threadIdx.x < 32:
                seen.append(turn)
                bar_arrive(2, 64)
                bar_sync(1, 64)
            else:
                bar_sync(2, 64)
                assert seen.count(turn) == 32
                bar_sync(1, 64)

    assert run(kernel).count("barrier") == 6


def test_shuffles_and_uniform():
    out = np.zeros(64, np.float32)

    def kernel(pointer):
        thread = cuda.threadIdx.x
        pointer[thread] = shfl_bfly(float32(thread), 5) + 1000 * warp_uniform(thread)

    run(kernel, out, signature=("float32*",))
    lane = np.arange(64)
    assert np.array_equal(out, (lane ^ 5) + 1000 * (lane // 32 * 32))


@pytest.mark.parametrize(("producer", "consumer", "fits"), [(24, 240, True), (40, 232, True), (32, 240, False)])
def test_warpgroups_share_the_registers_they_were_launched_with(producer, consumer, fits):
    shrink, grow = make_setmaxnreg(producer, "dec"), make_setmaxnreg(consumer, "inc")

    def kernel():
        if cuda.threadIdx.x < 128:
            shrink()
        else:
            grow()

    source = KernelSource(kernel, (), 384, 0)  # launched with 168 a thread
    if fits:
        run_kernel(source, (1, 1, 1), ())
        return
    with pytest.raises(EmulationError, match="3 groups were launched with 168 each"):
        run_kernel(source, (1, 1, 1), ())


def test_setmaxnreg_wants_the_whole_warpgroup():
    shrink = make_setmaxnreg(24, "dec")

    def kernel():
        if cuda.threadIdx.x > 0:
            shrink()

    with pytest.raises(Deadlock, match=r"threads 1..127 wait for threads 0..127 to meet at setmaxnreg"):
        run(kernel, threads=128)


def test_missing_syncthreads_is_a_race():
    def kernel(synced):
        shared = cuda.shared.array(0, float32)
        thread = cuda.threadIdx.x
        shared[thread] = float32(thread)
        if synced:
            cuda.syncthreads()
        local = cuda.local.array(1, float32)
        local[0] = shared[thread ^ 1]
        if synced:
            cuda.syncthreads()
        shared[thread ^ 1] = local[0]

    run(kernel, 1, signature=("int32",), shared_bytes=256)
    with pytest.raises(HazardError, match="no barrier between|unwritten"):
        run(kernel, 0, signature=("int32",), shared_bytes=256)


def test_unwritten_and_out_of_bounds_elements():
    def shared_read():
        cuda.shared.array(0, float32)[0] += 1

    def shared_past_end():
        cuda.shared.array(0, float32)[4] = 1

    def local_read():
        cuda.local.array((2, 2), float32)[0, 1] += 1

    def local_past_end():
        cuda.local.array((2, 2), float32)[0, 2] = 1

    for kernel, words in (
        (shared_read, "unwritten"),
        (shared_past_end, "element 4 of 4"),
        (local_read, "nothing wrote it"),
        (local_past_end, r"\(0, 2\) of a local array"),
    ):
        with pytest.raises(EmulationError, match=words):
            run(kernel, threads=32, shared_bytes=16)


def test_global_stores_are_checked():
    lse, memory = np.zeros(4, np.float32), GlobalMemory()

    def kernel(address, offset):
        if cuda.threadIdx.x == 0:
            st_global_f32(address + offset, 2.5)

    address, signature = memory.pointer(lse), ("pointer", "int64")
    run(kernel, address, 12, signature=signature)
    assert list(lse) == [0, 0, 0, 2.5]
    for pointer, offset in ((address, 16), (address, -4), (address, 2), (0, 0)):
        with pytest.raises(EmulationError, match="store"):
            run(kernel, pointer, offset, signature=signature)


def test_flat_pointer_guards_gaps_of_strided_arrays():
    pointer = FlatPointer(np.zeros((2, 4), np.float16)[:, :3], np.uint16)
    pointer[4] = 7
    assert pointer[4] == 7
    for index in (3, 7, -1):
        with pytest.raises(EmulationError, match="not of its array"):
            pointer[index] = 1


def test_device_functions_casts_and_grid():
    out = np.zeros(6, np.float32)

    @device
    def place(x, y):
        return int32(y * cuda.gridDim.x + x)

    def kernel(pointer):
        if cuda.threadIdx.x == 0:
            index = place(cuda.blockIdx.x, cuda.blockIdx.y)
            pointer[index] = int32(0x80000000) + uint16(0x10001) + index

    run(kernel, out, signature=("float32*",), threads=32, grid=(3, 2, 1))
    assert np.array_equal(out, np.float32(-(2**31) + 1 + np.arange(6)))


def test_arguments_must_follow_the_signature():
    with pytest.raises(TypeError, match="1 arguments for 0"):
        run(lambda: None, 1)
    with pytest.raises(TypeError, match="tensor map"):
        run(lambda a: None, 1, signature=("tensor_map",))
