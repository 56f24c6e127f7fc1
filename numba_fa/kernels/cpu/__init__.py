"""Numba on the CPU: tiles over threads, vector registers inside tiles."""
