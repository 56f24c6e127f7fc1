"""Kernel families. One folder a family: a variant (host, imports no compiler) and its kernel factories."""
