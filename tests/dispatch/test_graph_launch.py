"""Launches as graphs, by a driver that copies a node's parameters when it is told of them, as CUDA's does."""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace

import pytest

from numba_fa.build import graph, launch
from numba_fa.build.loader import LoadedKernel
from numba_fa.dispatch.addresses import Address
from numba_fa.dispatch.device import HOPPER

KERNEL, CONTEXT, OTHER = 1 << 40, 77 << 32, 78 << 32
CREATION = ["cuGraphCreate", "cuGraphAddKernelNode", "cuGraphInstantiateWithFlags"]


def settings_of(node):
    """A node's settings by CUDA_KERNEL_NODE_PARAMS of cuda.h: (function, its 7 numbers, table, the three others)."""
    at = ctypes.addressof(node)
    words = [ctypes.c_uint64.from_address(at + 8 * i).value for i in range(9)]
    numbers = [ctypes.c_uint32.from_address(at + 8 + 4 * i).value for i in range(7)]
    return words[0], numbers, words[5], words[6:]


def parameter(table):
    """The first parameter that a table points to, an address."""
    return ctypes.c_int64.from_address(ctypes.c_void_p.from_address(table).value).value


class Driver:
    """What of the driver is called. called: the functions' names; done: (how, parameter, stream) of each launch.

    refuses: names of functions that fail. context: that is current.
    """

    def __init__(self):
        self.called, self.done, self.refuses, self.context, self.pause = [], [], set(), CONTEXT, 0.0
        self.handles, self.nodes, self.interrupted, self.mode = count(1 << 33), {}, False, 1

    def entry_point(self, name, since, waits):
        def called(*arguments):
            self.called.append(name)
            return 1 if name in self.refuses else getattr(self, name, lambda *_: 0)(*arguments)

        return called

    def cuCtxGetCurrent(self, room):
        room._obj.value = self.context
        return 0

    def cuGraphCreate(self, room, flags):
        room._obj.value = next(self.handles)
        return 0

    def cuGraphAddKernelNode(self, room, template, before, many, node):
        assert before is None and many.value == 0
        room._obj.value = template.value + (1 << 20)
        return 0

    def cuThreadExchangeStreamCaptureMode(self, mode):
        self.mode, mode._obj.value = mode._obj.value, self.mode
        return 0

    def cuGraphInstantiateWithFlags(self, room, template, flags):
        assert self.mode == 2  # relaxed: another stream's capture goes on
        room._obj.value = template.value + (2 << 20)
        return 0

    def cuGraphExecKernelNodeSetParams(self, executable, node, settings):
        if self.interrupted:
            raise KeyboardInterrupt
        function, numbers, table, rest = settings_of(settings._obj)
        assert function == KERNEL and rest == [0, 0, 0]
        self.nodes[id(executable)] = (numbers, parameter(table))
        return 0

    def cuGraphLaunch(self, executable, stream):
        time.sleep(self.pause)
        self.done.append(("graph", self.nodes[id(executable)][1], stream))
        return 0

    def cuLaunchKernelEx(self, config, function, table, extra):
        self.done.append(("plain", parameter(ctypes.addressof(table._obj)), config._obj.stream))
        return 0


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    monkeypatch.setattr(launch, "entry_point", made.entry_point)
    monkeypatch.setattr(graph, "entry_point", made.entry_point)
    return made


@pytest.fixture
def kernel():
    return LoadedKernel(SimpleNamespace(threads=32, shared_bytes=9), None, KERNEL, CONTEXT)


def launcher(kernel, grid=(7, 8, 9), **options):
    options = {"by_graph": True} | options
    return launch.make_prepare(kernel, ("pointer", "int32"), grid, HOPPER, **options)((Address(0), 3))


def calls_of(driver, call):
    """The driver's functions that a call calls, but for those that ask or tell what is current in the thread."""
    before = len(driver.called)
    call()
    return [name for name in driver.called[before:] if name not in ("cuCtxGetCurrent", "cuThreadExchangeStreamCaptureMode")]


def test_only_what_changed_is_written_into_a_graph_that_is_made_once(driver, kernel):
    enqueue, at = launcher(kernel), (1 << 45,)
    assert calls_of(driver, lambda: enqueue(at, 0)) == [*CREATION, "cuGraphExecKernelNodeSetParams", "cuGraphLaunch"]
    assert calls_of(driver, lambda: enqueue(at, 0)) == ["cuGraphLaunch"]
    assert calls_of(driver, lambda: enqueue((1 << 45,), 0)) == ["cuGraphLaunch"]
    assert calls_of(driver, lambda: enqueue((5,), 0)) == ["cuGraphExecKernelNodeSetParams", "cuGraphLaunch"]
    assert calls_of(driver, lambda: enqueue(at, 0)) == ["cuGraphExecKernelNodeSetParams", "cuGraphLaunch"]
    assert driver.done == [("graph", n, None) for n in (1 << 45, 1 << 45, 1 << 45, 5, 1 << 45)]
    assert len(kernel.graphs) == 1 and driver.mode == 1


def test_the_node_is_set_as_cuda_lays_it_out(driver, kernel):
    launcher(kernel)((11,), 0)
    assert list(driver.nodes.values()) == [([7, 8, 9, 32, 1, 1, 9], 11)]
    assert ctypes.sizeof(graph.NodeParams) == 72


def test_problems_of_one_kernel_share_its_graph(driver, kernel):
    first, second = launcher(kernel), launcher(kernel, (1, 2, 3))
    for at in (3, 3, 4):
        first((at,), 0)
        second((at,), 0)
    assert [parameter for _, parameter, _ in driver.done] == [3, 3, 3, 3, 4, 4]
    assert driver.called.count(CREATION[-1]) == 1 and driver.called.count("cuGraphExecKernelNodeSetParams") == 6
    assert list(driver.nodes.values()) == [([1, 2, 3, 32, 1, 1, 9], 4)]


def test_other_streams_get_a_plain_launch(driver, kernel):
    enqueue = launcher(kernel)
    for stream in (0, 5 << 32, 1, 2, 0):
        enqueue((stream + 1,), stream)
    assert driver.done == [
        ("graph", 1, None), ("plain", (5 << 32) + 1, 5 << 32), ("plain", 2, 1), ("plain", 3, 2), ("graph", 1, None),
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{"by_graph": False}, {"by_graph": False, "early": True}], ids=str)
def test_kernels_among_others_get_plain_launches(driver, kernel, options):
    enqueue = launcher(kernel, **options)
    enqueue((3,), 0)
    enqueue((4,), 0)
    assert driver.called == ["cuLaunchKernelEx"] * 2 and [at for _, at, _ in driver.done] == [3, 4]


@pytest.mark.parametrize("current", [0, OTHER], ids=["none", "another"])
def test_another_context_than_the_kernels_gets_no_graph(driver, kernel, current):
    """A graph would run in the order of that context's stream: cuGraphLaunch lets it, where a plain launch is refused."""
    enqueue = launcher(kernel)
    driver.context = current
    enqueue((3,), 0)
    driver.context = CONTEXT
    enqueue((4,), 0)
    driver.context = current
    enqueue((4,), 0)
    assert driver.done == [("plain", 3, 0), ("graph", 4, None), ("plain", 4, 0)]


@pytest.mark.parametrize("refused", [*CREATION, "cuGraphExecKernelNodeSetParams", "cuGraphLaunch"])
def test_what_the_driver_refuses_as_a_graph_is_launched_plainly(driver, kernel, refused):
    enqueue = launcher(kernel)
    driver.refuses = {refused}
    enqueue((3,), 0)
    assert calls_of(driver, lambda: enqueue((4,), 0)) == ["cuLaunchKernelEx"]  # and is not tried again
    assert driver.done == [("plain", 3, 0), ("plain", 4, 0)] and driver.mode == 1


def test_what_was_refused_once_has_no_part_in_later_launches(driver, kernel):
    """Another problem's launches of the kernel begin with a graph of their own."""
    enqueue, other = launcher(kernel), launcher(kernel)
    enqueue((3,), 0)
    driver.refuses = {"cuGraphExecKernelNodeSetParams"}
    enqueue((4,), 0)
    driver.refuses = set()
    other((5,), 0)
    enqueue((6,), 0)
    assert driver.done == [("graph", 3, None), ("plain", 4, 0), ("graph", 5, None), ("plain", 6, 0)]
    assert driver.called.count("cuGraphInstantiateWithFlags") == 2


def test_threads_that_launch_at_once_disturb_no_other(driver, kernel):
    driver.pause = 0.002
    first, second = launcher(kernel), launcher(kernel)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: (first, second)[n % 2]((n // 3,), 0), range(48)))
    assert sorted(at for _, at, _ in driver.done) == sorted(n // 3 for n in range(48))
    assert {how for how, _, _ in driver.done} == {"graph"}
    assert len(kernel.graphs) == driver.called.count("cuGraphInstantiateWithFlags") <= 4


def test_an_interrupted_change_is_made_again(driver, kernel):
    enqueue = launcher(kernel)
    enqueue((3,), 0)
    (held,) = kernel.graphs
    driver.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        enqueue((4,), 0)
    driver.interrupted = False
    kernel.graphs.append(held)  # as if the interruption had come just before it was taken
    assert held.block is None
    enqueue((4,), 0)
    enqueue((3,), 0)
    assert driver.done == [("graph", n, None) for n in (3, 4, 3)]
