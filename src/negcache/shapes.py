"""The legend of dimensions. Every public tensor of negcache is described in these letters.

======== =====================================================================
letter   meaning
======== =====================================================================
``B``    queries in the batch (rows of this process)
``m``    draws per query
``M``    distinct drawn items; each is encoded once for the whole batch
``N``    items in the corpus (or classes)
``D``    embedding dimensions
``S``    rows (slots) of a cache; ``S == N`` for a dense one
``E``    (query, item) pairs of an exclusion list
``T``    tokens of a batch of texts, laid end to end
``p``    positives of a query
``F``    features of a kernel map; ``R`` of them random frequencies
``G``    groups of rows (blocks, clusters, nodes), each of ``c`` rows
``k``    terms of a sampled partition function
======== =====================================================================
"""

import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import hook checks shapes, as in the tests
    from jaxtyping import Bool, Float, Float64, Int, Int8
else:

    class _Shaped:
        """Elsewhere shapes are only read: a step defines functions, and evaluates what they say."""

        def __class_getitem__(cls, array_and_shape: tuple[Any, str]) -> Any:
            return array_and_shape[0]

    Bool = Float = Float64 = Int = Int8 = _Shaped

__all__ = ["Bool", "Float", "Float64", "Int", "Int8", "Tensor"]
