"""A kernel's launch as a CUDA graph of one node, which the driver keeps ready: only what changed is written into it.

Such a launch takes the host 1.8 us where cuLaunchKernelEx takes 4.5, and 2.5 where addresses changed (docs/findings/0023).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from numba_fa.build.driver import entry_point
from numba_fa.build.loader import LoadedKernel

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


class NodeParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS of cuda.h, the second version."""

    _fields_ = (
        ("function", ctypes.c_void_p), ("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint),
        ("threads", ctypes.c_uint), ("threads_y", ctypes.c_uint), ("threads_z", ctypes.c_uint), ("shared", ctypes.c_uint),
        ("table", ctypes.c_void_p), ("extra", ctypes.c_void_p), ("kernel", ctypes.c_void_p), ("context", ctypes.c_void_p),
    )  # fmt: skip


class Block(Protocol):
    """A kernel's parameters in memory, and the addresses that they hold: a tuple, another one after each change."""

    addresses: tuple[int, ...] | None


class Launcher(Protocol):
    """What one launch at a time has of its own: parameters, a node's settings that point to them, room for a context."""

    block: Any
    node_at: Any
    here: ctypes.c_uint64
    here_at: Any


class _Graph:
    """An instantiated graph, its node, and the parameters that the node has: a block's, when it held these addresses."""

    __slots__ = ("addresses", "block", "executable", "node", "template")

    def __init__(self, executable: Any, node: Any, template: Any) -> None:
        self.executable, self.node, self.template = executable, node, template
        self.block: Block | None = None
        self.addresses: tuple[int, ...] | None = None


def make_graph_launch(kernel: LoadedKernel) -> Callable[[Launcher], bool]:
    """enqueue(launcher) -> whether its launch is now enqueued on the legacy stream, the only one this is for: no graph can
    be captured there, and its launches run one after another, as those of one graph do wherever they are enqueued.

    False, with nothing enqueued, where another context than the kernel's is current, and where the driver refuses.
    """
    current = entry_point("cuCtxGetCurrent", 4000, False)
    set_params = entry_point("cuGraphExecKernelNodeSetParams", 12000, False)
    launch_graph = entry_point("cuGraphLaunch", 10000, True)
    idle, context, refused = kernel.graphs, kernel.context, False

    def enqueue(launcher: Launcher) -> bool:
        nonlocal refused
        # A graph would run on whichever GPU's legacy stream is current, its kernel on its own GPU: in no order.
        current(launcher.here_at)
        if refused or launcher.here.value != context:
            return False
        try:
            graph = idle.pop()
        except IndexError:
            graph = _instantiated(launcher.node_at)
        block = launcher.block
        fault = 0
        if graph is not None and (graph.block is not block or graph.addresses is not block.addresses):
            graph.block = None  # should this be interrupted
            fault = set_params(graph.executable, graph.node, launcher.node_at)
            if not fault:
                graph.block, graph.addresses = block, block.addresses
        if graph is None or fault or launch_graph(graph.executable, None):
            refused = True
            return False
        idle.append(graph)
        return True

    return enqueue


def _instantiated(node_at: Any) -> _Graph | None:
    """A graph of a node with these settings, in the current context, or None.

    It takes 0.02 to 0.2 ms and 112 KB of the GPU's memory, and stays as long as the kernel.
    """
    template, node, executable = (ctypes.c_void_p() for _ in range(3))
    create, add = entry_point("cuGraphCreate", 10000, True), entry_point("cuGraphAddKernelNode", 12000, True)
    # By the name without WithFlags the driver gives a function of five arguments, whatever version is asked for.
    instantiate = entry_point("cuGraphInstantiateWithFlags", 11040, True)
    with _captures_undisturbed():
        fault = (
            create(ctypes.byref(template), 0)
            or add(ctypes.byref(node), template, None, ctypes.c_size_t(0), node_at)
            or instantiate(ctypes.byref(executable), template, ctypes.c_uint64(0))
        )
    if fault:
        return None
    as_argument = ctypes.c_void_p.from_param
    return _Graph(as_argument(executable.value), as_argument(node.value), template)


@contextmanager
def _captures_undisturbed() -> Iterator[None]:
    """What allocates, as an instantiation does, would spoil a capture of another stream, did the thread not say that the
    two have nothing to do with each other.
    """
    exchange, mode = entry_point("cuThreadExchangeStreamCaptureMode", 10010, True), ctypes.c_int(_RELAXED)
    exchange(ctypes.byref(mode))
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))
