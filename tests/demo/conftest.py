"""The demo's model, loaded once, and an attention that is independent of the demo's own reference."""

from __future__ import annotations

import numpy as np
import pytest

from numba_fa.demo.encoder import Encoder
from numba_fa.demo.weights import Checkpoint, DemoPackageError, load_checkpoint


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """The model; the test is skipped where its package is not installed."""
    try:
        return load_checkpoint()
    except DemoPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def encoder(checkpoint: Checkpoint) -> Encoder:
    """The encoder of the model."""
    return Encoder(checkpoint)


@pytest.fixture(scope="session")
def plain_attention():
    """Attention in float32, one head and sentence at a time, output in q's dtype: the stand-in under test."""

    def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch, seqlen, heads, head_dim = q.shape
        out, lse = np.empty_like(q), np.empty((batch, heads, seqlen), np.float32)
        for b, h in np.ndindex(batch, heads):
            rows = q[b, :, h].astype(np.float32) @ k[b, :, h].astype(np.float32).T / np.float32(head_dim**0.5)
            lse[b, h] = np.logaddexp.reduce(rows, axis=1)
            out[b, :, h] = np.exp(rows - lse[b, h][:, None]) @ v[b, :, h].astype(np.float32)
        return out, lse

    return attention
