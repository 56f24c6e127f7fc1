"""A similarity matrix as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def similarity_table(similarity: np.ndarray, labels: Sequence[str]) -> str:
    """The (n, n) matrix with a numbered, left-aligned label a row and the same numbers over the columns."""
    width = max(map(len, labels), default=0)
    numbers = range(1, len(labels) + 1)
    lines = [" " * (width + 5) + "".join(f"{number:>7}" for number in numbers)]
    for number, label, row in zip(numbers, labels, similarity, strict=True):
        lines.append(f"{number:>3}  {label:<{width}}" + "".join(f"{value:>7.2f}" for value in row))
    return "\n".join(lines)
