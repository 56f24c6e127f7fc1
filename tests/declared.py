"""What declared masks and biases mean, by the reference."""

import numpy as np

import numba_fa
import reference
from reference.parameters import bind


def mask_truth(mask, seqlen_q, seqlen_k):
    """The reference's form of a declared mask with NumPy arrays: a name, or a function (b, h, q_idx, kv_idx) -> bool."""
    if isinstance(mask, str):
        return mask

    def made(rule, **parameters):
        return bind(rule, seqlen_q, seqlen_k, **parameters)

    if isinstance(mask, numba_fa.Full):
        return made(reference.full)
    if isinstance(mask, numba_fa.Causal):
        return made(reference.causal)
    if isinstance(mask, numba_fa.SlidingWindow):
        return made(reference.window, left=mask.left, right=mask.right, sinks=mask.sinks)
    if isinstance(mask, numba_fa.KeyPadding):
        return made(reference.padding, lengths=mask.lengths)
    if isinstance(mask, numba_fa.Document):
        return made(reference.document, q_ids=mask.q_ids, k_ids=mask.k_ids)
    if isinstance(mask, numba_fa.PrefixLM):
        return made(reference.prefix, prefix=mask.prefix)
    if isinstance(mask, numba_fa.BlockMask):
        return mask_truth(mask.mask, seqlen_q, seqlen_k)
    if isinstance(mask, numba_fa.MaskMod):
        return lambda b, h, i, j: mask.function(b, h, i, j, *mask.aux)
    parts = [mask_truth(part, seqlen_q, seqlen_k) for part in mask.masks]
    return (reference.intersection if isinstance(mask, numba_fa.All) else reference.union)(*parts)


def bias_truth(bias, seqlen_q, seqlen_k):
    """The reference's form of a declared bias with NumPy arrays: a function (score, b, h, q_idx, kv_idx) -> score."""

    def made(rule, **parameters):
        return bind(rule, seqlen_q, seqlen_k, **parameters)

    if isinstance(bias, numba_fa.ALiBi):
        return made(reference.alibi, slopes=bias.slopes)
    if isinstance(bias, numba_fa.DenseBias):
        return made(reference.dense, array=bias.array)
    if isinstance(bias, numba_fa.T5Bias):
        return made(reference.t5, table=bias.table, max_distance=bias.max_distance, bidirectional=bias.bidirectional)
    if isinstance(bias, numba_fa.Softcap):
        return made(reference.softcap, cap=bias.cap)
    if not isinstance(bias, numba_fa.ScoreMod):
        raise TypeError(f"no truth is known of {bias!r}")
    # vectorize hands out Python's floats, beside which an array's float32 would decide the precision.
    plain = np.vectorize(lambda kind, s, b, h, i, j: bias.function(kind(s), b, h, i, j, *bias.aux), otypes=[float])
    return lambda s, b, h, i, j: plain(s.dtype.type, s, b, h, *np.broadcast_arrays(i, j)).astype(s.dtype)


def truth_of(asked, sizes):
    """(mask, bias, sink_logits) as keyword arguments of the reference."""
    lengths = sizes.seqlen_q, sizes.seqlen_k
    return {
        "mask": mask_truth(asked.mask, *lengths),
        "bias": [bias_truth(bias, *lengths) for bias in asked.biases],
        "sink_logits": asked.sink_logits,
    }
