"""Libraries whose arrays the CPU kernel takes, and how test data goes into and out of them."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from numba_fa.testing.tolerance import assert_close
from tests.oracle import truth

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Numpy:
    """NumPy, with ml_dtypes' bfloat16."""

    kind: type = np.ndarray

    def make(self, array: np.ndarray) -> Any:
        return array.copy()

    def dtype(self, name: str) -> Any:
        return np.dtype(DTYPES[name])

    def to_numpy(self, array: Any) -> np.ndarray:
        return array


class Torch:
    """torch on the CPU. Bits travel as int16, because torch.from_numpy does not know bfloat16."""

    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch")
        self.kind = self.torch.Tensor

    def make(self, array: np.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return self.torch.from_numpy(array.view(np.int16).copy()).view(self.torch.bfloat16)
        return self.torch.from_numpy(array.copy())

    def dtype(self, name: str) -> Any:
        return getattr(self.torch, name)

    def to_numpy(self, array: Any) -> np.ndarray:
        if array.dtype == self.torch.bfloat16:
            return array.contiguous().view(self.torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array.numpy()


class Jax:
    """JAX on the CPU."""

    def __init__(self) -> None:
        self.jax = pytest.importorskip("jax")
        self.kind = self.jax.Array

    def make(self, array: np.ndarray) -> Any:
        return self.jax.device_put(array, self.jax.devices("cpu")[0])

    def dtype(self, name: str) -> Any:
        return np.dtype(DTYPES[name])

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)


LIBRARIES = {"numpy": Numpy, "torch": Torch, "jax": Jax}


def check(out, lse, *sizes):
    """AssertionError unless NumPy arrays out and lse are right for `random_qkv(*sizes[:-1])` and mask sizes[-1]."""
    assert_close(out, lse, *truth(*sizes), DTYPES[sizes[6]])
