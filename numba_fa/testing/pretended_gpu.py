"""A GPU where there is none: arrays are the CPU's, launches do nothing, and what the driver was told can be read."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_LAUNCHES = 16  # that are remembered


Launched = Any  # settings of a graph's node; or configuration, kernel, table of parameters and nothing


def grid_of(launch: Launched) -> tuple[int, int, int]:
    """How many blocks the driver was told to start."""
    shape = launch[0]._obj if isinstance(launch, tuple) else launch
    return shape.x, shape.y, shape.z


def places_of(launch: Launched, count: int) -> list[int]:
    """Where the driver was told that the first `count` parameters are."""
    table = ctypes.addressof(launch[2]._obj) if isinstance(launch, tuple) else launch.table
    return list((ctypes.c_void_p * count).from_address(table))


class _Driver:
    """The driver's functions that do nothing but remember launches; all others do nothing at all."""

    def __init__(self) -> None:
        self.launches: deque[Launched] = deque(maxlen=_LAUNCHES)
        launches, settings = self.launches, dict[int, Any]()  # of each graph's node

        # As little as can be: what they take is counted as ours.
        def launch(*arguments: Any) -> int:
            launches.append(arguments)
            return 0

        def set_params(graph: Any, node: Any, node_at: Any) -> int:
            settings[id(graph)] = node_at._obj
            return 0

        def launch_graph(graph: Any, stream: None) -> int:
            launches.append(settings[id(graph)])
            return 0

        self._functions: dict[str, Callable[..., int]] = {
            "cuLaunchKernelEx": launch, "cuGraphExecKernelNodeSetParams": set_params, "cuGraphLaunch": launch_graph,
        }  # fmt: skip

    def entry_point(self, name: str, since: int, waits: bool) -> Callable[..., int]:
        return self._functions.get(name, lambda *arguments: 0)


@contextmanager
def pretended_gpu() -> Iterator[deque[Launched]]:
    """A Hopper GPU meanwhile; gives the last launches. Nothing is compiled; all else on a call's path is as on a GPU."""
    from numba_fa import api, backward
    from numba_fa.build import graph, launch
    from numba_fa.build.artifact import Artifact
    from numba_fa.build.loader import LoadedKernel
    from numba_fa.dispatch.device import HOPPER

    artifact, driver = Artifact("pretended", "sm_90a", "", b"", 0, 0, 0, 0, 0, 384, {}), _Driver()

    def no_map(tensor_map: Any) -> Callable[[int], bytes]:
        return lambda address: address.to_bytes(8, "little") + bytes(120)

    with (
        mock.patch.object(api, "device_of", lambda name: HOPPER),
        mock.patch.object(backward, "device_of", lambda name: HOPPER),
        mock.patch("numba_fa.build.loader.load", lambda *key: LoadedKernel(artifact, None, 0)),
        mock.patch.object(launch, "entry_point", driver.entry_point),
        mock.patch.object(graph, "entry_point", driver.entry_point),
        mock.patch.object(launch, "encoder", no_map),
    ):
        api.forget()
        backward.forget()
        try:
            yield driver.launches
        finally:
            api.forget()
            backward.forget()
