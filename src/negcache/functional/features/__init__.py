"""Kernels of an inner product that a sum of item features linearises: <phi(h), sum_j phi(e_j)>."""

from negcache.functional.features.fourier import Fourier
from negcache.functional.features.kernel import Kernel
from negcache.functional.features.positive import Positive
from negcache.functional.features.quadratic import Quadratic, Quartic

__all__ = ["Fourier", "Kernel", "Positive", "Quadratic", "Quartic"]
