"""How sure a difference is, of other queries and of other seeds."""

import numpy as np

from negcache.shapes import Float

RESAMPLES = 2000


def paired_interval(
    one: Float[np.ndarray, "S Q"], other: Float[np.ndarray, "S Q"], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap of ``mean(one) - mean(other)``: seeds drawn anew, then queries.

    Args:
        one, other: a measure of each query under each seed; the same queries and seeds.
    """
    noise, apart = np.random.default_rng(seed), one - other
    seeds, queries = apart.shape
    chosen = noise.integers(seeds, size=(RESAMPLES, seeds))
    asked = noise.integers(queries, size=(RESAMPLES, queries))
    means = [apart[np.ix_(some, those)].mean() for some, those in zip(chosen, asked, strict=True)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
