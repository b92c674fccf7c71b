"""What a comparison says: a table, differences from the baseline, sentences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from negcache.run.cli.comparing.runs import Measured
from negcache.run.cli.comparing.significance import CONFIDENCE, Difference, holm, paired_difference
from negcache.run.training.config import leaves

TITLES = {"ndcg10": "nDCG@10", "mrr10": "MRR@10", "r1": "R@1", "r10": "R@10", "r100": "R@100"}

DIAGNOSED = {
    "bias": "gradient bias, of its norm",
    "sd": "gradient spread, of its norm",
    "effective_sample_size": "effective sample size",
    "kl": "KL of the proposal, nats",
}
"""What of a diagnosis is compared."""

ALPHA = 0.05
"""Below it a difference is said to be more than the choice of queries explains."""

_LEFT_OUT = {
    "data.source",  # equal data may lie in two places
    "data.strict",
    "sampler.name",  # has a row of its own
    "eval_every",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
}
"""Keys that say nothing about what was trained."""

CHOSEN = "chosen"
"""In place of a setting."""

_CHOSEN_BY_AUTO = ("sampler.num_negatives", "sampler.shared")

UNIT = (
    "Unit of the test: the queries of this split, each run trained once. It says how far a "
    "difference would hold for other queries of this kind, and nothing about other training "
    "seeds: for these, train each setting with several values of seed."
)


@dataclass(frozen=True)
class Versus:
    """A run against the baseline; ``adjusted`` is p after Holm over all runs compared."""

    name: str
    difference: Difference
    adjusted: float


@dataclass(frozen=True)
class Report:
    """A comparison, ready to be shown.

    Args:
        runs: their names, the baseline first.
        rows: label and one text for each run.
        versus: every run but the baseline.
        verdict: sentences.
    """

    split: str
    measure: str
    num_queries: int
    runs: list[str]
    rows: list[tuple[str, list[str]]]
    versus: list[Versus]
    verdict: list[str]

    @property
    def title(self) -> str:
        """Of the measure."""
        return TITLES[self.measure]


def report_on(runs: Sequence[Measured], split: str, measure: str) -> Report:
    """Compare runs; the first is the baseline.

    Args:
        runs: of the same data, measured on ``split``.
        measure: which the differences are tested on.
    """
    baseline = runs[0]
    queries = sorted(baseline.per_query[measure])
    values = [np.array([run.per_query[measure][query] for query in queries]) for run in runs]
    found = [paired_difference(of, values[0]) for of in values[1:]]
    adjusted = holm([difference.p for difference in found])
    versus = [
        Versus(run.name, difference, p)
        for run, difference, p in zip(runs[1:], found, adjusted, strict=True)
    ]
    return Report(
        split,
        measure,
        len(queries),
        [run.name for run in runs],
        list(_rows(runs)),
        versus,
        [*(_judge(one, baseline.name, TITLES[measure]) for one in versus), *_caveats(runs), UNIT],
    )


def _rows(runs: Sequence[Measured]) -> Iterator[tuple[str, list[str]]]:
    yield "sampler.name", [run.found.config.sampler.name for run in runs]
    settings = [dict(leaves(run.found.config.model_dump())) for run in runs]
    for key in settings[0]:
        told = [_setting(of, key) for of in settings]
        if key not in _LEFT_OUT and len({value for value in told if value != CHOSEN}) > 1:
            yield key, told
    for name, title in TITLES.items():
        yield title, [f"{run.means[name]:.4f}" for run in runs]
    yield "steps", [_steps(run) for run in runs]
    if any(run.found.measured != run.found.step for run in runs):
        yield "best on dev, measured here, at step", [f"{run.found.measured:,}" for run in runs]
    yield "items encoded with gradient", [f"{run.history.encoded_grad:,}" for run in runs]
    yield "items encoded without", [f"{run.history.encoded_nograd:,}" for run in runs]
    yield "seconds of training", [f"{run.history.seconds:,.1f}" for run in runs]
    yield from _diagnosed(runs)


def _setting(of: Mapping[str, Any], key: str) -> str:
    """As the run had it: what "auto" chooses by itself is no setting."""
    is_chosen = key in _CHOSEN_BY_AUTO and of["sampler.name"] == "auto" and not of["data.pairs"]
    return CHOSEN if is_chosen else str(of[key])


def _diagnosed(runs: Sequence[Measured]) -> Iterator[tuple[str, list[str]]]:
    """What ``negcache diagnose`` found of each run's own sampler; nothing where it never looked."""
    own = [None if run.diagnosis is None else run.diagnosis["samplers"][0] for run in runs]
    if not any(own):
        return
    steps = [None if run.diagnosis is None else run.diagnosis["step"] for run in runs]
    yield "diagnosed at step", ["-" if step is None else f"{step:,}" for step in steps]
    for key, label in DIAGNOSED.items():
        values = [None if found is None else found[key] for found in own]
        yield label, ["-" if value is None else f"{value:.3f}" for value in values]
    held = [run.diagnosis and run.diagnosis.get("coverage") for run in runs]
    yield "coverage by cached rows", ["-" if not each else f"{each['share']:.3f}" for each in held]


def _steps(run: Measured) -> str:
    done, wanted = run.found.step, run.found.config.steps
    return f"{done:,}" if done == wanted else f"{done:,} of {wanted:,}"


def _judge(one: Versus, baseline: str, title: str) -> str:
    """A difference in words."""
    found = one.difference
    counts = f"better on {found.better:,} queries, worse on {found.worse:,}, equal on "
    figures = (
        f"{found.mean:+.4f} in {title} against {baseline} ({CONFIDENCE:.0%} interval "
        f"{found.low:+.4f} to {found.high:+.4f}; p = {one.adjusted:.4f} after Holm; {counts}"
        f"{found.equal:,})"
    )
    if one.adjusted >= ALPHA:
        return f"{one.name}: no difference shown: {figures}."
    return f"{one.name} is {'better' if found.mean > 0 else 'worse'}: {figures}."


def _caveats(runs: Sequence[Measured]) -> Iterator[str]:
    """What makes the runs less than comparable."""
    if len({run.found.step for run in runs}) > 1:
        yield "The runs have not made equally many steps."
    if len({run.found.config.seed for run in runs}) > 1:
        yield "The runs have different training seeds, which alone make some difference."
    if len({run.found.config.batch_size for run in runs}) > 1:
        yield "The batches differ in size, so equal steps are not equally many training pairs."
