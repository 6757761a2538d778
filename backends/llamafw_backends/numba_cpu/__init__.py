"""Models in Numba: the CPU backend."""
