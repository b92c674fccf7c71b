"""Would the difference between two runs hold for other queries of this kind?

The unit is the query: both runs answered the same ones. Other training seeds are no part of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from negcache.errors import InputError
from negcache.shapes import Float

RESAMPLES = 9_999
"""Of the test and of the interval; the smallest p-value is 2 / (RESAMPLES + 1)."""

CONFIDENCE = 0.95

_HELD = 1 << 22
"""Numbers resampled at a time: a bound on memory."""


@dataclass(frozen=True)
class Difference:
    """A run against the baseline, over queries.

    Args:
        mean: of value - baseline's value.
        low, high: percentile bootstrap interval of the mean, at ``CONFIDENCE``.
        p: two-sided, of the paired randomisation test.
        better, worse, equal: numbers of queries.
    """

    mean: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    equal: int


def paired_difference(
    values: Float[np.ndarray, "Q"], baseline: Float[np.ndarray, "Q"], seed: int = 0
) -> Difference:
    """Compare two runs on the same queries.

    The randomisation test asks how often a mean difference at least as large would come about if,
    for every query, it were chance which run got which of the two values. With few queries all
    exchanges are counted, else ``RESAMPLES`` are drawn. Source: Smucker et al., CIKM 2007.

    Args:
        values, baseline: a measure of each query, in the same order.
        seed: of the resampling.
    """
    if len(values) < 2:
        raise InputError("at least 2 queries to compare", f"{len(values)}", "add judged queries")
    rng, differences = np.random.default_rng(seed), values - baseline
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_batch(differences),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=rng,
    ).confidence_interval
    return Difference(
        float(differences.mean()),
        float(interval.low),
        float(interval.high),
        _randomisation_p(differences[differences != 0], rng),
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        int((differences == 0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down rule.

    Examples:
        >>> [round(p, 6) for p in holm([0.04, 0.01, 0.03])]
        [0.06, 0.03, 0.06]
    """
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    adjusted = np.maximum.accumulate(np.minimum(np.asarray(p_values)[order] * factors, 1.0))
    return adjusted[np.argsort(order)].tolist()


def _randomisation_p(differences: Float[np.ndarray, "Q"], rng: np.random.Generator) -> float:
    """Exchanging the runs of a query flips a sign; queries without difference change nothing."""
    if len(differences) < 2:  # one, of either sign, is as large
        return 1.0
    test: Any = stats.permutation_test(  # one sample of type "samples": its signs are flipped
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(differences),
        alternative="two-sided",
        rng=rng,
    )
    return float(test.pvalue)


def _batch(values: Float[np.ndarray, "Q"]) -> int:
    return max(1, _HELD // len(values))
