"""Attention on tiles: masks, block ranges, online softmax. Knows no instruction."""
