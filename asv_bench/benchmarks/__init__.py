"""Tracked series of numba_fa's speed, cost and code. Where what a series needs is missing, it is skipped.

Each module measures once, in `setup_cache`, everything taking turns in one process; a series reads its point.
"""
