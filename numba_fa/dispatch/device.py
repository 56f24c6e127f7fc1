"""Devices as dispatch sees them: which kernel families each can run, and for which architecture to compile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Device:
    """A place to compute. arch is "cpu" or an SM architecture as nvJitLink names it ("sm_90a")."""

    name: str
    ordinal: int
    arch: str
    multiprocessors: int = 1
    shared_bytes: int = 0

    @property
    def families(self) -> tuple[str, ...]:
        """Kernel families that run here, best first."""
        if self.arch == "cpu":
            return ("cpu",)
        return ("sm90", "simt") if self.arch == "sm_90a" else ("simt",)


CPU = Device("cpu", -1, "cpu")
HOPPER = Device("H100 or H200 (assumed)", 0, "sm_90a", 132, 232448)


def arch_of(major: int, minor: int) -> str:
    """The architecture to compile for: from Hopper on, the one with architecture-specific instructions."""
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")


@cache
def device_of(name: str) -> Device:
    """The device behind "cpu" or "cuda:N"; asks the driver once."""
    if name == "cpu":
        return CPU
    from numba_fa.build.driver import describe_device

    return describe_device(int(name.partition(":")[2] or 0))
