"""Real sentences through a real sentence encoder whose attention is numba_fa: `python -m numba_fa.demo`."""
