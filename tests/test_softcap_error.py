"""The table of the hardware tanh's error: what it models stays within the tests' bound for scores as models have them."""

import numpy as np

from tests import softcap_error


def test_a_tanh_off_by_its_bound_stays_within_ours(monkeypatch):
    monkeypatch.setattr(softcap_error, "SIZES", (1, 96, 96, 2, 2, 64))
    *_, bound, off, share = softcap_error._row(None, 30.0, 4.0).strip("| ").split(" | ")
    assert float(off) <= float(bound) and float(share) == round(float(off) / float(bound), 2)


def test_a_kernels_error_is_its_own(monkeypatch):
    monkeypatch.setattr(softcap_error, "SIZES", (1, 32, 32, 1, 1, 64))
    row = softcap_error._row(lambda q, k, v, cap, scale: np.full(q.shape, 9.0), 30.0, 1.0)
    assert float(row.split("|")[-2]) > 1
