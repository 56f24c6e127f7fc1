"""`python -m numba_fa.demo`: the demo with numba_fa's own attention."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from numba_fa.demo.arrays import attend, family
from numba_fa.demo.naive import naive_attention
from numba_fa.demo.run import run
from numba_fa.demo.weights import DemoPackageError

DTYPES = ("float32", "float16", "bfloat16")
HEADS, HEAD_DIM = 12, 32


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo. Returns 0 when all agrees with the reference, 1 if not, 2 if a package is missing."""
    parser = _parser()
    options = parser.parse_args(argv)
    dtype = _dtype(options.dtype)
    try:
        sentences = None if options.sentences is None else read_sentences(options.sentences)
        if not options.picture.parent.is_dir():
            raise FileNotFoundError(f"no such folder: {options.picture.parent}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        backend = family(dtype, HEADS, HEAD_DIM)
        result = run(
            attend, naive_attention, sentences, options.picture, backend=backend, dtype=dtype
        )
    except DemoPackageError as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if result.faults else 0


def read_sentences(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank; ValueError when there are none, OSError if unreadable."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    sentences = [line for line in lines if line]
    if not sentences:
        raise ValueError(f"{path} holds no sentence")
    return sentences


def _dtype(name: str) -> np.dtype:
    """The NumPy dtype called `name`; bfloat16 comes from ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m numba_fa.demo", description=__doc__)
    parser.add_argument("--picture", type=Path, default=Path("numba_fa_demo.png"), help="where the PNG goes")
    parser.add_argument("--sentences", type=Path, help="a text file, one sentence a line")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="element type of q, k and v")
    return parser


if __name__ == "__main__":
    sys.exit(main())
