"""How inner loops are compiled: once a machine, wherever that can be kept."""

import inspect
from collections.abc import Callable
from typing import Any

from negcache.errors import InputError

try:
    import numba
except ImportError as error:
    raise InputError("numba for loops", str(error), 'pip install "negcache[index]"') from error


def compiled(function: Callable[..., Any], **settings: Any) -> Any:
    """Compile a function; where type checks are wrapped around it, what is inside them.

    Where no folder can be written to it is compiled again in every process.
    """
    inside = inspect.unwrap(function)
    try:
        return numba.njit(inside, cache=True, nogil=True, **settings)
    except RuntimeError:  # numba found no place for what it compiles
        return numba.njit(inside, nogil=True, **settings)
