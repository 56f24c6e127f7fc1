"""The demo's picture: which sentences are alike, and where one head of one layer looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from numba_fa.demo.weights import DemoPackageError

# A panel is 6 inches wide: beyond 16 columns a two-digit value no longer fits its cell.
MOST_VALUES = 16


@dataclass(frozen=True)
class Head:
    """One head's attention for one sentence: weights (seqlen, seqlen), and where they come from."""

    layer: int
    head: int
    weights: np.ndarray
    tokens: Sequence[str]


def most_telling_head(weights: Sequence[np.ndarray], tokens: Sequence[str]) -> Head:
    """The head that looks most at distant words, among `weights[layer]` of shape (heads, seqlen, seqlen).

    Most heads of a BERT rest on [CLS], [SEP], the token itself or its neighbours (Clark et al., "What Does
    BERT Look At?", 2019, section 3), which makes a dull picture; the weight that goes elsewhere ranks them.
    """
    position = np.arange(len(tokens))
    word = (position > 0) & (position < len(tokens) - 1)
    distant = np.abs(position[:, None] - position) > 1
    elsewhere = np.stack(weights).sum(axis=(-2, -1), where=distant & word[:, None] & word)
    layer, head = np.unravel_index(elsewhere.argmax(), elsewhere.shape)
    return Head(int(layer), int(head), weights[layer][head], tokens)


def write_picture(path: Path, similarity: np.ndarray, labels: Sequence[str], head: Head) -> None:
    """Writes the similarity heat map and the head's weights side by side as a PNG at `path`.

    `similarity` is (n, n) in [-1, 1]. DemoPackageError when matplotlib is missing, OSError when `path` cannot
    be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise DemoPackageError("the package matplotlib") from error
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _similarity_map(figure, left, similarity, labels)
    _attention_map(figure, right, head)
    figure.savefig(path, format="png", dpi=120)


def _similarity_map(figure, axes, similarity: np.ndarray, labels: Sequence[str]) -> None:
    """Draws the matrix, each cell with its value while the values stay readable."""
    image = axes.imshow(similarity, vmin=0, vmax=1, cmap="viridis")
    readable = np.ndenumerate(similarity) if len(labels) <= MOST_VALUES else ()
    for (row, column), value in readable:
        shade = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=8)
    _ticks(axes, labels)
    axes.set_title("cosine similarity of the sentence embeddings")
    figure.colorbar(image, ax=axes, shrink=0.8)


def _attention_map(figure, axes, head: Head) -> None:
    """Draws the head's weights, queries down and keys across."""
    image = axes.imshow(head.weights, vmin=0, vmax=head.weights.max(), cmap="magma")
    _ticks(axes, head.tokens)
    axes.set_ylabel("query token")
    axes.set_xlabel("key token")
    axes.set_title(f"layer {head.layer + 1}, head {head.head + 1}: exp(scale q.k - lse), every row sums to 1")
    figure.colorbar(image, ax=axes, shrink=0.8)


def _ticks(axes, labels: Sequence[str]) -> None:
    """The same labels on both axes; "$" is escaped because matplotlib would read it as mathematics."""
    plain = [label.replace("$", r"\$") for label in labels]
    axes.set_xticks(range(len(plain)), plain, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(plain)), plain)
