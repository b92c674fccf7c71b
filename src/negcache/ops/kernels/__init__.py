"""Kernels of an inner product that a sum of item features linearises: <phi(h), sum_j phi(e_j)>."""

from negcache.ops.kernels.exponential import Exponential, fourier, positive
from negcache.ops.kernels.kernel import Kernel
from negcache.ops.kernels.quadratic import Quadratic, Quartic

__all__ = ["Exponential", "Kernel", "Quadratic", "Quartic", "fourier", "positive"]
