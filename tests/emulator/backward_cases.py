"""Small gradients for the emulated backward, and what they must be, in float64 NumPy."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

import reference
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.emulator import GlobalMemory, TensorMap, run_kernel
from numba_fa.kernels.sm90.backward_run import STAGES, Gradients, main_key, rows_bytes, sums_bytes, tiles_of
from tests.emulator.attention_cases import DTYPES, expected


def inputs(case):
    """q, k, v, dout standard normal in the case's dtype, out in it, lse float32."""
    rng = np.random.default_rng(case.seed)
    sizes = ((case.seqlen_q, case.heads), (case.seqlen_k, case.heads_kv), (case.seqlen_k, case.heads_kv),
             (case.seqlen_q, case.heads))  # fmt: skip
    q, k, v, dout = (rng.standard_normal((case.batch, n, h, case.head_dim)).astype(DTYPES[case.dtype]) for n, h in sizes)
    out, lse = expected(case, q, k, v)
    return q, k, v, dout, out.astype(DTYPES[case.dtype]), lse.astype(np.float32)


def emulate(case, arrays, tile=None, multiprocessors=132, dlse=None, op="bwd", blocks=None):
    """Run the three kernels, the main one of kind `op` with its own grid or `blocks`. Returns dq, dk, dv and its trace."""
    q, k, v, dout, out, lse = arrays
    key = replace(main_key(case.dtype, case.head_dim, case.mask), op=op)
    if tile:
        key = DispatchKey(op, "sm90", case.dtype, key.head_dim, case.mask, *tile)
    memory = GlobalMemory()
    problem = SimpleNamespace(**case._asdict(), scale=case.scale)
    rows = np.full(rows_bytes(problem, key) // 4, np.nan, np.float32)
    tickets = np.full(tiles_of(problem, key), -1, np.int32)
    sums = np.full(sums_bytes(problem, key) // 4, np.nan, np.float32)
    dq, dk, dv = (np.full_like(x, np.nan) for x in (q, k, v))
    views = Gradients(
        _view(q), _view(k), _view(v), _view(out, memory), _view(dout, memory), _view(lse, memory), _view(dq), _view(dk),
        _view(dv), memory.pointer(rows), memory.pointer(sums), memory.pointer(tickets) if op == "bwd_det" else 0,
        None if dlse is None else _view(dlse, memory),
    )  # fmt: skip
    device = Device("emulated", 0, "sm_90a", multiprocessors)
    program = {"full": (), "causal": (case.seqlen_k - case.seqlen_q,)}[case.mask]
    for stage in STAGES:
        stage_key = stage.key(key)
        arguments = [_argument(value) for value in stage.arguments(problem, stage_key, views)]
        arguments += program if stage.programmed else ()
        source = stage.factory()(stage_key)
        grid = (blocks, 1, 1) if blocks and stage.programmed else stage.grid(problem, stage_key, device)
        trace = run_kernel(source, grid, tuple(arguments), seed=case.seed)
        if stage.programmed:
            main = trace
    return dq, dk, dv, main


def assert_gradients(case, results, arrays, tolerance, dlse=None):
    """Relative Frobenius errors of at most `tolerance`; what nothing touches exactly 0."""
    q, k, v, dout = (np.asarray(x, np.float64) for x in arrays[:4])
    truths = reference.attention_backward(q, k, v, dout, mask=case.mask, scale=case.scale, dlse=dlse)
    for name, result, truth in zip(("dq", "dk", "dv"), results, truths[:3], strict=False):
        result = np.asarray(result, np.float64)
        assert np.isfinite(result).all(), name
        assert np.linalg.norm(result - truth) <= tolerance * np.linalg.norm(truth) + 1e-12, name
        assert np.all(result[truth == 0] == 0) or name == "dq", name


def _view(array, memory=None):
    strides = tuple(stride // array.itemsize for stride in array.strides)
    pointer = memory.strided_pointer(array) if memory else None
    return SimpleNamespace(array=array, shape=array.shape, strides=strides, pointer=pointer, itemsize=array.itemsize)


def _argument(value):
    return TensorMap(value.view.array, value.rows, value.columns) if hasattr(value, "view") else value
