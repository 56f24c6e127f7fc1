"""Numba on the CPU: tiles over threads, BLAS inside tiles."""
