"""What a diagnosis says: plain numbers, ready for JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from negcache.diagnosis.moments import Moments
from negcache.diagnosis.staleness import AgeBin
from negcache.ops.gradient_cosine import LEAST

DERIVED = ("bias", "sd", "error", "cost", "cosine", "effort", "worth")
"""Of a sampler, told beside its fields."""

SURE = 1.645
"""Standard errors to a one-sided bound of 95 %."""


@dataclass(frozen=True)
class TowerError:
    """The gradient that one tower is handed, against the exact one; relative to its norm.

    Args:
        bias: ``||E g - t|| / ||t||``, freed of what so many repeats leave of the noise.
        bias_at_most: 95 % bound of it.
        sd: ``sqrt(E ||g - E g||^2) / ||t||``, of one step.
        cosine: of the mean gradient with the exact one.
        cosine_of_one: mean cosine of a single step's gradient with the exact one.
    """

    bias: float
    bias_at_most: float
    sd: float
    cosine: float
    cosine_of_one: float

    @property
    def error(self) -> float:
        """``sqrt(bias^2 + sd^2)``: how far off a single step is."""
        return math.hypot(self.bias, self.sd)

    @staticmethod
    def of(found: Moments, truth_error: float = 0.0) -> "TowerError":
        """From moments that were added up.

        Args:
            truth_error: squared standard error of the exact gradient, where items are a sample.
        """
        truth = max(found.truth - truth_error, 1e-300)
        bias = max(found.bias - truth_error, 0.0)
        margin = SURE * math.sqrt(found.bias_variance) + 2 * truth_error
        if math.isnan(truth_error):
            truth, bias, margin = found.truth, max(found.bias, 0.0), math.nan
        mean = math.sqrt(max(found.mean, 1e-300) * found.truth)
        return TowerError(
            math.sqrt(bias / truth),
            math.sqrt((bias + margin) / truth),
            math.sqrt(max(found.variance, 0.0) / truth),
            min(1.0, found.along / mean) if found.truth else math.nan,
            found.cosine / found.truth if found.truth else math.nan,
        )


@dataclass(frozen=True)
class Outlook:
    """What ``auto`` reckons of a choice that was measured.

    Args:
        choice: uniform draws, cached ones, share of the rows that these are made from.
        cost: of a step, counted, as ``explain()`` of the sampler has it.
        cosine: of a step to the exact gradient, foretold; None: no look has told of this choice,
            or looks were at batches of another size.
    """

    choice: tuple[int, int, float]
    cost: float
    cosine: float | None


@dataclass(frozen=True)
class SamplerReport:
    """One sampler, over the repeats of every batch.

    Args:
        name: as it was given.
        repeats: of each batch.
        query: the gradient that the query tower is handed.
        item: that of the item tower.
        loss: -log p+ under its draws, nats, to be compared with the exact one.
        encoded: distinct items encoded with gradient in a step, positives too.
        refreshed: items encoded anew each step without.
        effective_sample_size: mean over queries; between 1 and the draws of a query.
        kl: of the softmax over the negatives from each query's own proposal, nats; None: the
            sampler knows no law. Infinite where it misses an item.
        tv: total variation of the two, between 0 and 1.
        partition: estimated partition function over the true one, the mean; and its error.
        p_value: of the weights being honest, see `weights`; NaN: negatives are those of the batch,
            which was held fixed; or those that a stream's cache has now, whose weights are honest
            over all that it may have.
        false_negatives: share of the draws, by how it is known.
        draw_seconds: of a draw, on this machine.
        outlook: what ``auto`` reckons of it; None: it is no choice of that sampler.
    """

    name: str
    repeats: int
    query: TowerError
    item: TowerError
    loss: float
    encoded: float
    refreshed: float
    effective_sample_size: float
    kl: float | None
    tv: float | None
    partition: float
    partition_error: float
    p_value: float
    false_negatives: Mapping[str, float]
    draw_seconds: float
    outlook: Outlook | None = None

    @property
    def bias(self) -> float:
        """Of both towers: the root of the mean square."""
        return math.hypot(self.query.bias, self.item.bias) / 2**0.5

    @property
    def sd(self) -> float:
        """Of both towers: the root of the mean square."""
        return math.hypot(self.query.sd, self.item.sd) / 2**0.5

    @property
    def error(self) -> float:
        """How far off the gradient of a single step is: of both towers, bias and spread."""
        return math.hypot(self.query.error, self.item.error) / 2**0.5

    @property
    def cost(self) -> float:
        """Items encoded a step, with gradient and without."""
        return self.encoded + self.refreshed

    @property
    def cosine(self) -> float:
        """Of a single step's gradient to the exact one, query tower; not below `LEAST`."""
        return max(self.query.cosine_of_one, LEAST)

    @property
    def effort(self) -> float:
        """Items encoded for what one exact step does: ``cost / cosine^2``."""
        return self.cost / self.cosine**2

    @property
    def worth(self) -> float:
        """What ``auto`` counts for what one exact step does; NaN where it has no outlook."""
        return math.nan if self.outlook is None else self.outlook.cost / self.cosine**2


@dataclass(frozen=True)
class Advice:
    """One thing to change, and what it would bring.

    Args:
        kind: "draws", "batch", "uniform", "refresh", "weights"; of a stream "capacity"; of ``auto``
            "foretold", "choice".
        sentence: in words.
        figure: what would move: "sd" or "error" of a step's gradient, "kl", or "worth"; or
            "p_value", or "cosine"; "missed", share of the softmax that no row stands for.
        before: its value now; of "foretold" what was said.
        after: as it was measured with the change.
        encodings: items encoded a step with the change, over those of now.
        measured: name of the sampler with the change, among those of the diagnosis.
        rows: of the cache, where they are what is changed.
    """

    kind: str
    sentence: str
    figure: str
    before: float
    after: float
    encodings: float
    measured: str
    rows: int | None = None


class Coverage(NamedTuple):
    """What the rows of a store can stand for.

    Args:
        rows: that have been written, each of an item of its own.
        share: of the softmax over the negatives that is on these items; the mean over the queries.
    """

    rows: int
    share: float


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at, and what was found.

    Args:
        own: name of the loss' own sampler.
        queries: looked at, in batches of ``batch_size``.
        num_items: of the corpus; ``sampled`` of them stand for all where that is fewer.
        loss: exact -log p+ of these queries, nats.
        softmax_items: ``exp`` of the softmax' entropy: how many negatives share most of it.
        truth_error: of the exact gradient to the queries, relative, where items are a sample.
        softmax_false_negatives: share of the softmax over the negatives that is on suspects.
        samplers: the loss' own first.
        advice: what could be changed, and what it would bring, the most helpful first.
        ages: how stale rows are, by age; none where nothing is stored.
        coverage: rows of the loss' store, and the share of the softmax over the negatives that is
            on their items; None: it has no store.
        coverage_by_rows: what the items hold that came last, were a cache of a stream smaller, as
            it is, or larger; empty: that is not known.
        seconds: that the diagnosis took, by part.
    """

    own: str
    queries: int
    batch_size: int
    num_items: int
    sampled: int
    loss: float
    softmax_items: float
    truth_error: float
    softmax_false_negatives: Mapping[str, float]
    samplers: Sequence[SamplerReport]
    advice: Sequence[Advice]
    ages: Sequence[AgeBin]
    seconds: Mapping[str, float] = field(default_factory=dict)
    coverage: Coverage | None = None
    coverage_by_rows: Sequence[Coverage] = ()

    def of(self, name: str) -> SamplerReport:
        """What was found of a sampler."""
        return next(each for each in self.samplers if each.name == name)

    @property
    def reach(self) -> str:
        """Of a store that misses items: what it holds, in words; else nothing."""
        if self.coverage is None or self.coverage.rows >= self.num_items:
            return ""
        rows, share = self.coverage
        return (
            f"The store has rows of {rows:,} of {self.num_items:,} items, with {share:.1%} of the "
            "softmax over the negatives (coverage). Draws from it reach no other item: the bias is "
            "of that, too."
        )

    @property
    def silence(self) -> str:
        """What is said where there is no advice."""
        if any(each.name.startswith(f"{self.own}: ") for each in self.samplers):
            return "None of the changes that were measured moves its figure so far that it is told."
        return "Of this sampler no variants are measured; compare it with the others."

    def figures(self) -> dict[str, Any]:
        """As JSON has it: what is infinite or no number is None."""
        figures = asdict(self)
        figures["ages"] = [each._asdict() for each in self.ages]
        figures["coverage"] = None if self.coverage is None else self.coverage._asdict()
        figures["coverage_by_rows"] = [each._asdict() for each in self.coverage_by_rows]
        for told, sampler in zip(figures["samplers"], self.samplers, strict=True):
            told |= {name: getattr(sampler, name) for name in DERIVED}
        return _plain(figures)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
