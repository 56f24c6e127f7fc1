"""Every error and warning the library raises by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class ProblemError(ValueError):
    """The request is wrong. `faults` lists every fault found, each with the value met and what is allowed."""

    def __init__(self, faults: Sequence[str]):
        self.faults = tuple(faults)
        head = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__(f"attention cannot run, {head}:" + "".join(f"\n  - {fault}" for fault in self.faults))


class UnsupportedError(NotImplementedError):
    """The request is right, but no variant here computes it.

    `reasons` maps each variant's name to what it lacks; `nearest` names the closest supported cell, if any.
    """

    def __init__(self, summary: str, reasons: Mapping[str, Sequence[str]] | None = None, nearest: str | None = None):
        self.summary, self.reasons, self.nearest = summary, dict(reasons or {}), nearest
        lines = [summary]
        lines += [f"  {name}: {'; '.join(why)}" for name, why in self.reasons.items()]
        if nearest:
            lines.append(f"  nearest supported: {nearest}")
        super().__init__("\n".join(lines))


class CompileError(RuntimeError):
    """A kernel did not compile, or compiled into something that must not run (serialised wgmma, ignored setmaxnreg)."""


class FunctionError(RuntimeError):
    """A mask or score function raised an exception while a kernel of the CPU ran, as an index outside a tuple does."""


class LaunchError(RuntimeError):
    """The CUDA driver refused to load or launch a kernel; the message carries the driver's name for the error."""


class StoreWarning(UserWarning):
    """The artifact store degraded: a corrupt entry was quarantined, or the folder cannot be written."""
