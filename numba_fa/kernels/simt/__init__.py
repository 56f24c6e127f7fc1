"""Portable Numba-CUDA: shared memory and scalar arithmetic, for any GPU."""
