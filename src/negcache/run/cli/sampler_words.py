"""The words of ``sampler.name`` and the classes that they stand for; the nearest to one unknown."""

import difflib
import re

CLASSES = {
    "auto": "Auto",
    "cached": "CachedSoftmax",
    "uniform": "Uniform",
    "in_batch": "InBatch",
    "full": "FullSoftmax",
    "cached_rest": "CachedRest",
    "mixture": "Mixture",
    "popularity": "Popularity",
    "distinct": "CachedDistinct",
    "head_tail": "HeadTail",
    "quadratic": "quadratic",
    "rf_softmax": "rf_softmax",
}
"""By word; of functions their own name."""


def nearest_word(word: str) -> str:
    """Of another spelling, or of the class in Python.

    Examples:
        >>> nearest_word("cached_softmax"), nearest_word("CachedDistinct"), nearest_word("in-batch")
        ('cached', 'distinct', 'in_batch')
    """
    names = {_plain(name): word for word, name in CLASSES.items()} | {w: w for w in CLASSES}
    return names[difflib.get_close_matches(_plain(word[:100]), names, n=1, cutoff=0.0)[0]]


def _plain(name: str) -> str:
    """``InBatch``, ``in-batch`` and ``in_batch`` alike."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()
