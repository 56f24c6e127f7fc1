"""Inputs, tolerances, flop counts and timing, for tests, benchmarks, notebooks and users alike."""
from .flops import forward_flops
from .inputs import random_qkv
from .timing import median_time
from .tolerance import assert_close, assert_lse_close, assert_within, error_bound

__all__ = [
    "assert_close",
    "assert_lse_close",
    "assert_within",
    "error_bound",
    "forward_flops",
    "median_time",
    "random_qkv",
]
