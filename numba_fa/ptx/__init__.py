"""PTX instructions as Numba intrinsics, one instruction family a file, under the PTX manual's names."""
