"""The numbers that user functions compute with on a GPU: Index and Real, 32 bits each, whatever they are mixed with.

`types.py` says how they mix, `operators.py` and `functions.py` are the tables of what can be done with them, written in
the terms of `term.py`; `register.py`, when imported, tells numba.cuda. A whole number that becomes float32 does so
exactly up to 2**24 and rounded beyond; only positions and lengths (`ptx/elementwise.py`) must stay below 2**22.
"""
