"""The demo itself: encode with the given attention, compare with a reference, report, draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from numba_fa.demo.encoder import Attention, AttentionCall, Encoder, Encoding
from numba_fa.demo.naive import attention_weights
from numba_fa.demo.picture import most_telling_head, write_picture
from numba_fa.demo.sentences import SENTENCES, short_label
from numba_fa.demo.table import similarity_table
from numba_fa.demo.weights import load_checkpoint

LSE_LIMIT = 1e-4
ROW_SUM_LIMIT = 1e-3


@dataclass(frozen=True)
class Result:
    """What the demo found: the largest absolute differences from the reference, and the times in seconds.

    `output_limit` is what `output_error` may be: 1e-5 for the float32 sums plus two units of rounding of the
    largest value, since the weights and the output are each rounded once to `dtype`.
    """

    similarity: np.ndarray
    backend: str
    output_error: float
    output_limit: float
    lse_error: float
    row_sum_error: float
    embedding_error: float
    first_call_seconds: float
    attention_seconds: float
    total_seconds: float
    picture: Path | None

    @property
    def faults(self) -> tuple[str, ...]:
        """One line a comparison that is out of bounds; empty when all is well. NaN is out of bounds."""
        bounds = (
            ("attention output", self.output_error, self.output_limit),
            ("LSE", self.lse_error, LSE_LIMIT),
            ("sum of a row of attention weights", self.row_sum_error, ROW_SUM_LIMIT),
        )
        return tuple(
            f"{name} is off by {error:.2e}, allowed {limit:.2e}"
            for name, error, limit in bounds
            if not error <= limit
        )


class Stopwatch:
    """An attention that notes how long each of its calls took, in `seconds`."""

    def __init__(self, attention: Attention):
        self.attention = attention
        self.seconds: list[float] = []

    def __call__(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Calls the attention it holds; shapes as there."""
        start = time.perf_counter()
        answer = self.attention(q, k, v)
        self.seconds.append(time.perf_counter() - start)
        return answer


def run(
    attention: Attention,
    reference: Attention,
    sentences: Sequence[str] | None = None,
    picture: str | Path | None = None,
    report: Callable[[str], None] = print,
    *,
    backend: str = "unnamed",
    dtype: np.typing.DTypeLike = np.float32,
) -> Result:
    """Encodes `sentences` (default: SENTENCES) with `attention` and checks every layer against `reference`.

    Both take q, k, v (batch, seqlen, 12, 32) of `dtype` as NumPy arrays and return (out, lse), out of q's
    shape and lse (batch, 12, seqlen). `backend` is the name to report for `attention`; `report` receives the
    lines of text. With `picture` a PNG is written there. Raises DemoPackageError when the model or matplotlib
    is missing, ValueError when there is no sentence.
    """
    sentences = list(SENTENCES if sentences is None else sentences)
    if not sentences:
        raise ValueError("the demo needs at least one sentence")
    start = time.perf_counter()
    report("loading all-MiniLM-L6-v2 ...")
    checkpoint = load_checkpoint()
    encoder, watch = Encoder(checkpoint), Stopwatch(attention)
    report(
        f"{checkpoint.parameters / 1e6:.1f} M parameters, "
        f"{checkpoint.layers} layers of {checkpoint.heads} heads\n"
        f"attention: backend {backend}, {np.dtype(dtype).name}"
    )
    encoding = encoder.encode(sentences, watch, dtype, _progress(len(sentences), report))
    report("the same through the float64 reference ...")
    expected = encoder.encode(sentences, reference, dtype)
    similarity = encoding.embeddings @ encoding.embeddings.T
    labels = [short_label(sentence) for sentence in sentences]
    if picture is not None:
        picture = Path(picture)
        _draw(picture, encoding, similarity, labels)
    result = Result(
        similarity=similarity,
        backend=backend,
        **_differences(encoding, reference),
        embedding_error=_largest(encoding.embeddings - expected.embeddings),
        first_call_seconds=watch.seconds[0],
        attention_seconds=sum(watch.seconds),
        total_seconds=time.perf_counter() - start,
        picture=picture,
    )
    _report_result(result, labels, len(watch.seconds), report)
    return result


def _progress(count: int, report: Callable[[str], None]) -> Callable[[list[int], int], None]:
    """A listener for `Encoder.encode` that reports how many of `count` sentences are done."""
    done = 0

    def on_batch(members: list[int], seqlen: int) -> None:
        nonlocal done
        done += len(members)
        report(f"  encoded {done} of {count} sentences ({len(members)} of {seqlen} tokens)")

    return on_batch


def _differences(encoding: Encoding, reference: Attention) -> dict[str, float]:
    """Each recorded call against `reference` on the same q, k, v: the errors and the output's limit."""
    calls = [call for layers in encoding.calls for call in layers]
    errors = []
    for call in calls:
        out, lse = reference(call.q, call.k, call.v)
        sums = _weights(call).sum(axis=-1)
        errors.append([_largest(call.out - out), _largest(call.lse - lse), _largest(sums - 1)])
    # NumPy's maximum keeps a NaN, which Python's would lose.
    output, lse, row_sum = np.max(errors, axis=0).tolist()
    limit = 1e-5 + 2 * _rounding(calls[0].q.dtype) * max(_largest(call.v) for call in calls)
    return {"output_error": output, "output_limit": limit, "lse_error": lse, "row_sum_error": row_sum}


def _weights(call: AttentionCall) -> np.ndarray:
    """One sentence's softmax weights (heads, seqlen, seqlen) from the LSE that the attention returned."""
    return attention_weights(call.q, call.k, call.lse)[0]


def _draw(path: Path, encoding: Encoding, similarity: np.ndarray, labels: Sequence[str]) -> None:
    """Writes the picture; its head is taken from the first sentence."""
    weights = [_weights(call) for call in encoding.calls[0]]
    write_picture(path, similarity, labels, most_telling_head(weights, encoding.tokens[0]))


def _largest(values: np.ndarray) -> float:
    """The largest absolute value, NaN if there is one."""
    return float(np.abs(values.astype(np.float64)).max())


def _rounding(dtype: np.dtype) -> float:
    """Half the distance from 1 to the next number of `dtype`: its largest relative rounding error."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


def _report_result(result: Result, labels: Sequence[str], calls: int, report: Callable[[str], None]) -> None:
    """The table, the comparison, the times and the faults."""
    report("\ncosine similarity of the sentences:\n" + similarity_table(result.similarity, labels))
    report(
        f"\nlargest difference from the reference over {calls} attention calls:\n"
        f"  attention output  {result.output_error:.1e}   (allowed {result.output_limit:.1e})\n"
        f"  LSE               {result.lse_error:.1e}   (allowed {LSE_LIMIT:.1e})\n"
        f"  sums of weights   {result.row_sum_error:.1e}   (allowed {ROW_SUM_LIMIT:.1e})\n"
        f"  embeddings        {result.embedding_error:.1e}   (of length 1, after all layers)"
    )
    report(
        f"\nbackend {result.backend}: {result.attention_seconds:.3f} s in attention, of which "
        f"{result.first_call_seconds:.3f} s in the first call; {result.total_seconds:.2f} s in all"
    )
    if result.picture is not None:
        report(f"picture: {result.picture}")
    for fault in result.faults:
        report(f"WRONG: {fault}")
