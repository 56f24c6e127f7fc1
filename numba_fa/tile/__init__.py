"""Tiles: layouts in shared memory, and which tile a block computes next. Knows no attention."""
