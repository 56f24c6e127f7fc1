"""Kernels from source to launch: compile, keep, load. The only caller of Numba's CUDA compiler."""
