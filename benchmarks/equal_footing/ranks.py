"""The rank of the first right item of every query, as a word of a results file."""

from collections.abc import Iterable

import numpy as np

from negcache.shapes import Float

LETTERS = ".abcdefghij"
"""Rank 1 is ``a``, 10 is ``j``, ``.`` is none of these."""


def written(reciprocals: Iterable[float]) -> str:
    """The word for these values of MRR@10, one for each query."""
    return "".join(LETTERS[round(1 / value) if value else 0] for value in reciprocals)


def read(word: str) -> Float[np.ndarray, "Q"]:
    """The values of MRR@10 that a word stands for."""
    places = [LETTERS.index(letter) for letter in word]
    return np.array([1 / place if place else 0.0 for place in places])
