"""On several GPUs: arrays on another than the current one, whatever thread calls, and what is current stays so."""

import threading

import pytest

import numba_fa
from tests.gpu.test_gpu_edges import check

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def random(device, *shape, dtype=torch.bfloat16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(f"cuda:{device}", dtype)


def inputs(device, requires_grad=False):
    return [random(device, 2, 300, 4, 64, seed=i).requires_grad_(requires_grad) for i in range(3)]


@pytest.fixture(autouse=True)
def first_is_current():
    torch.cuda.set_device(0)
    yield
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_arrays_on_each_device_in_turn(dtype):
    """The first call of each compiles and loads, later ones launch, as does a plan."""
    given = [[x.to(dtype) for x in inputs(device)] for device in (1, 0)]
    for _ in range(3):
        for q, k, v in given:
            out, lse = numba_fa.attention(q, k, v, mask="causal", return_lse=True)
            assert out.device == lse.device == q.device and torch.cuda.current_device() == 0
            check(out.float().cpu().numpy(), q, k, v, "causal")
    for q, k, v in given:
        out, plan = torch.full_like(q, float("nan")), numba_fa.plan(q, k, v, mask="causal")
        plan.run(q, k, v, out)
        check(out.float().cpu().numpy(), q, k, v, "causal")


def test_gradients_and_block_masks_beside_the_current_device():
    def same_half(b, h, q_idx, kv_idx):
        return (q_idx < 150) == (kv_idx < 150)

    found = []
    for device in (0, 1):
        q, k, v = inputs(device, requires_grad=True)
        mask = numba_fa.block_mask(numba_fa.MaskMod(same_half), seqlen_q=300, seqlen_k=300, like=q)
        numba_fa.attention(q, k, v, mask=mask).square().sum().backward()
        assert torch.cuda.current_device() == 0 and q.grad.device == q.device
        found.append([x.grad.float().cpu() for x in (q, k, v)])
    for first, second in zip(*found):
        assert first.abs().max() > 0.1
        torch.testing.assert_close(first, second, rtol=2e-2, atol=2e-2)


def test_a_thread_without_a_context():
    q, k, v = inputs(1)
    out, plan = torch.empty_like(q), numba_fa.plan(q, k, v)
    torch.cuda.synchronize(1)
    thread = threading.Thread(target=plan.run, args=(q, k, v, out))
    thread.start()
    thread.join()
    torch.cuda.synchronize(1)
    check(out.float().cpu().numpy(), q, k, v)


def test_a_call_waits_for_its_own_devices_work_whichever_is_current():
    """Also once its kernel has a graph, which would run on the current device's stream."""
    q, k, v = inputs(1)
    out, plan, other = torch.empty_like(q), numba_fa.plan(q, k, v), random(1, 2, 300, 4, 64, seed=9)
    with torch.cuda.device(1):
        plan.run(other, k, v, out)
        expected = out.clone()
    for _ in range(3):
        with torch.cuda.device(1):
            out.zero_()
            torch.cuda._sleep(100_000_000)
            q.copy_(other)
        plan.run(q, k, v, out)
        with torch.cuda.device(1):
            found = out.clone()
            q.zero_()
        assert torch.equal(found, expected)
