"""The CPU backward against the reference's gradients: every program, dtype and edge."""

from dataclasses import replace

import numba
import numpy as np
import pytest

import numba_fa
from numba_fa.testing.programs import PROGRAMS, Asked, random
from tests.kernels import cpu_backward_cases as cases
from tests.kernels.cpu_backward_cases import Case, backward, check, exact_forward, forward, make_case, threads

LENGTHS = {"ragged": (2, 67, 93), "tall": (2, 91, 33), "decode": (2, 1, 77), "one": (1, 1, 1)}
DTYPES = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize("lengths", ["ragged", "tall", "decode"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(program, lengths):
    case = make_case(PROGRAMS[program], LENGTHS[lengths])
    check(case, backward(case))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_heads(dtype, heads, lengths):
    case = make_case(PROGRAMS["causal"], LENGTHS[lengths], heads, 40, dtype, layout="padded")
    # The naive float32 sums are NumPy's, in several chains; from the forward's own log-sum-exp the errors are alike.
    check(case, backward(case, passed=forward(case) if dtype == "float32" else None))


@pytest.mark.parametrize("program", ["everything", "window-padding-dense", "t5", "sink"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_programs_in_16_bits(dtype, program):
    case = make_case(PROGRAMS[program], LENGTHS["ragged"], dtype=dtype)
    check(case, backward(case))


@pytest.mark.parametrize("head_dim", [8, 72, 256])
@pytest.mark.parametrize("tile", [(16, 16), (5, 7), (128, 64)], ids=str)
def test_head_dims_and_tiles(head_dim, tile):
    case = make_case(PROGRAMS["everything"], (1, 67, 93), (2, 1), head_dim)
    check(case, backward(case, tile=tile))


def test_after_the_forward():
    case = make_case(PROGRAMS["everything"], LENGTHS["ragged"])
    check(case, backward(case, passed=forward(case)))


def test_arrays_at_odd_addresses():
    case = make_case(PROGRAMS["everything"], LENGTHS["ragged"])

    def moved(x):
        return np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)

    passed = exact_forward(case)
    results = backward(Case(case.asked, *map(moved, case[1:])), passed=tuple(map(moved, passed)))
    expected = backward(case, passed=passed)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(results[:3], expected[:3]))


def test_without_dlse():
    case = make_case(PROGRAMS["sink"], LENGTHS["ragged"], dlse=False)
    check(case, backward(case))


@pytest.mark.parametrize("lengths", [(1, 0, 5), (1, 5, 0), (0, 3, 3)], ids=str)
def test_no_queries_or_no_keys(lengths):
    case = make_case(PROGRAMS["everything"], lengths)
    results = backward(case)
    for gradient in (*results[:3], *results.dbias[1:]):
        assert not gradient.any()


# Every way an array can be broadcast against (batch, heads, seqlen_q, seqlen_k) = (2, 4, 67, 93).
SHAPES = [tuple(n if number >> i & 1 else 1 for i, n in enumerate((2, 4, 67, 93))) for number in range(16)]


@pytest.mark.parametrize("shape", [*SHAPES, (67, 93), (93,), ()], ids=str)
def test_broadcast_dense_arrays(shape):
    case = make_case(lambda s: Asked("causal", (numba_fa.DenseBias(random(*shape)),)), LENGTHS["ragged"])
    check(case, backward(case, "b"))


@pytest.mark.parametrize("order", ["dense,softcap,alibi", "t5,score_mod,dense"])
def test_parameters_before_and_after_other_biases(order):
    def make(sizes):
        biases = {
            "dense": numba_fa.DenseBias(random(1, sizes.heads, sizes.seqlen_q, 1)),
            "alibi": numba_fa.ALiBi(random(sizes.heads) ** 2 / 8),
            "t5": numba_fa.T5Bias(random(8, sizes.heads), 20),
            "softcap": numba_fa.Softcap(2.5),
            "score_mod": PROGRAMS["score_mod"](sizes).biases[0],
        }
        return Asked("causal", tuple(biases[name] for name in order.split(",")))

    case = make_case(make, LENGTHS["ragged"])
    check(case, backward(case))


@pytest.mark.parametrize("wanted", ["q", "k", "v", "b", "s", "qk", "kv", "qv", "", "bs", "qs"])
def test_what_is_wanted_alone_is_computed_and_the_same(wanted):
    case = make_case(PROGRAMS["everything"], LENGTHS["ragged"])
    whole, some = backward(case), backward(case, wanted)
    for name, mine, full in zip("qkvs", some[:4], whole[:4]):
        assert (mine is not None) == (name in wanted)
        assert mine is None or mine.tobytes() == full.tobytes()
    assert [x is None for x in some.dbias] == [True, "b" not in wanted]


def _spares(b, h, q_idx, kv_idx):
    return (kv_idx % 9 != 4) & (q_idx % 8 != 3) & (kv_idx <= q_idx + 26)


def _spared(make):
    """A program with a mask under which some keys are seen by no query, and some queries see no key."""
    return lambda sizes: replace(make(sizes), mask=numba_fa.MaskMod(_spares))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("program", ["full", "everything"])
def test_poison_behind_the_mask_stays_there(program, poison):
    case = make_case(_spared(PROGRAMS[program]), LENGTHS["ragged"])
    passed, clean = exact_forward(case), backward(case)
    q, k, v, dout = (x.copy() for x in case[1:5])
    unseen, blind = np.arange(93) % 9 == 4, np.arange(67) % 8 == 3
    k[:, unseen] = v[:, unseen] = q[:, blind] = dout[:, blind] = poison
    results = backward(case._replace(q=q, k=k, v=v, dout=dout), passed=passed)
    for mine, wanted in zip((*results[:3], *results.dbias), (*clean[:3], *clean.dbias)):
        assert mine is wanted or np.isfinite(mine).all() and np.allclose(mine, wanted, 1e-5, 1e-5)
    assert not results.dq[:, blind].any() and not results.dk[:, unseen].any() and not results.dv[:, unseen].any()


def test_one_poisoned_key_spoils_the_rows_that_see_it_alone():
    case = make_case(PROGRAMS["causal"], (1, 70, 70), (1, 1))
    k = case.k.copy()
    k[0, 40] = np.nan
    case = case._replace(k=k)
    results = backward(case)
    assert np.isfinite(results.dq[0, :40]).all() and np.isnan(results.dq[0, 40:]).all()


@pytest.mark.parametrize("program", ["causal", "everything", "window-padding-dense", "t5", "mod"])
@pytest.mark.parametrize(("batch", "heads"), [(2, (4, 2)), (1, (4, 1))], ids=str)
def test_threads_change_nothing(program, batch, heads):
    case = make_case(PROGRAMS[program], (batch, 67, 93), heads)
    passed, found = exact_forward(case), []
    for count in range(1, min(3, numba.config.NUMBA_NUM_THREADS) + 1):
        with threads(count):  # one takes whole heads, more than there are heads takes blocks
            found.append(backward(case, passed=passed))
    for results in found[1:]:
        for mine, first in zip((*results[:4], *results.dbias), (*found[0][:4], *found[0].dbias)):
            assert mine is first or mine.tobytes() == first.tobytes()


def test_whole_heads_and_blocks_take_the_same_sums(monkeypatch):
    case = make_case(PROGRAMS["everything"], LENGTHS["ragged"])
    found = []
    for count in (1, 1000):
        monkeypatch.setattr("numba_fa.kernels.cpu.backward.get_num_threads", lambda count=count: count)
        found.append(backward(case))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found[0][:3], found[1][:3]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_writes_nothing_outside(dtype):
    case = make_case(PROGRAMS["causal"], LENGTHS["ragged"], dtype=dtype)
    out, lse = exact_forward(case)
    rooms = [np.full((4, 2 * x.shape[1] + 6, x.shape[2] + 2, x.shape[3] + 5), 77, x.dtype) for x in case[1:4]]
    windows = [room[1:3, 3:-3:2, 1:-1, 2:-3] for room in rooms]
    run = cases.backward_of(cases.key_of(case.asked, case.q.dtype, 24))
    arrays = map(cases.carrier, (case.q, case.k, case.v, out, case.dout))
    aux = cases.arguments_of(case.asked, case.sizes)
    run(*arrays, lse, case.dlse, *map(cases.carrier, windows), None, (), cases.SCALE, aux)
    check(case, cases.Results(*windows, None, ()))
    for room, window in zip(rooms, windows):
        window[...] = 77
        assert np.all(room == 77)
