"""What the series share: points measured beforehand, and which kernels are watched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from numba_fa.dispatch.tuning import key_for
from numba_fa.kernels.sm90.backward_variant import main_key

HEAD_DIMS, MASKS = (64, 128, 256), ("full", "causal")
SLUGS = [key_for("fwd", "sm90", "bf16", head_dim, mask).slug for head_dim in HEAD_DIMS for mask in MASKS]
BACKWARD_SLUGS = [main_key("bf16", head_dim, mask).slug for head_dim in HEAD_DIMS for mask in MASKS]


class Measured:
    """Series over points that `setup_cache` measured: {parameters of a series: value}."""

    timeout = 600

    def setup(self, points: dict[Any, Any], *at: Any) -> None:
        """Skip a point that was not measured."""
        if at not in points:
            raise NotImplementedError("not measured here")


class Speed(Measured, ABC):
    """Series over points of (milliseconds, operations); abstract, or asv would take it for one in every module."""

    @property
    @abstractmethod
    def params(self) -> list[Any]:
        """The values of each parameter."""

    def track_us(self, points: dict[Any, Any], *at: Any) -> float:
        """Microseconds."""
        return round(points[at][0] * 1e3, 2)

    track_us.unit = "us"  # type: ignore[attr-defined]

    def track_tflops(self, points: dict[Any, Any], *at: Any) -> float:
        """TFLOP/s: here more is better."""
        milliseconds, flops = points[at]
        return round(flops / milliseconds / 1e9, 2)

    track_tflops.unit = "TFLOP/s"  # type: ignore[attr-defined]


def has_gpu() -> bool:
    """Whether there are a GPU and a torch that uses it."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def has_torch() -> bool:
    """Whether torch is installed."""
    from importlib.util import find_spec

    return find_spec("torch") is not None
