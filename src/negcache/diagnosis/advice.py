"""What to do, in words; every sentence has its figures from a sampler that was measured beside."""

import math
from collections.abc import Iterator, Mapping

from negcache.diagnosis.choices import on_choices
from negcache.diagnosis.report import Advice, SamplerReport
from negcache.diagnosis.variants import Variant

SAME = 0.05
"""Figures that differ by so much, relatively, are called the same."""

SEEN = 0.01
"""Figures that differ by less are called the same too: they are told so."""

LIES = 1e-3
"""Weights whose p-value is below it are said to lie."""

LEAST = 1e-12
"""No p-value is said to be below it."""

Measured = Mapping[str, tuple[Variant, SamplerReport]]


def advise(own: SamplerReport, measured: Measured) -> list[Advice]:
    """What the figures say, the most helpful first.

    What would move its figure by less than `SAME` or `SEEN` is left out. First comes what brings a
    figure down, and of these what takes the fewest encodings for what an exact step does.

    Args:
        own: of the loss' own sampler.
        measured: variants of it, by name.
    """
    changes = [
        each
        for variant, found in measured.values()
        if variant.kind in _FIGURES and (each := _advice(own, variant, found)) is not None
    ]
    changes.sort(key=lambda each: _place(each, measured[each.measured][1]))
    choices = [found for variant, found in measured.values() if variant.kind == "choice"]
    return [*_on_weights(own), *on_choices(own, choices), *changes]


def _place(advice: Advice, found: SamplerReport) -> tuple[bool, bool, float]:
    helps, harms = is_less(advice.after, advice.before), is_less(advice.before, advice.after)
    return harms, not helps, math.inf if math.isnan(found.effort) else found.effort


def _on_weights(own: SamplerReport) -> Iterator[Advice]:
    if own.p_value < LIES:
        yield Advice(
            "weights",
            f"What {own.name} draws does not stand for all items: the partition comes out "
            f"{own.partition:.2f} x the true one, and with honest weights sums would be so wrong "
            f"with a chance of {max(own.p_value, LEAST):.1g} at most. Its loss and its gradient "
            "are biased.",
            "p_value",
            own.p_value,
            own.p_value,
            1.0,
            own.name,
        )


def _advice(own: SamplerReport, variant: Variant, found: SamplerReport) -> Advice | None:
    figure = _FIGURES[variant.kind]
    before, after = getattr(own, figure), getattr(found, figure)
    cost = found.cost / own.cost
    told = variant.kind == "uniform" or is_less(after, before)
    sentence = _SENTENCES[variant.kind](variant, before, after, cost) if told else None
    if sentence is None:
        return None
    return Advice(variant.kind, sentence, figure, before, after, cost, found.name)


def is_less(one: float, other: float) -> bool:
    """Whether a figure is so much less than another that it is told."""
    return one < other * (1 - SAME) and other - one >= SEEN


def _moves(before: float, after: float) -> str:
    return f"from {before:.2f} to {after:.2f}"


def _draws(variant: Variant, before: float, after: float, cost: float) -> str:
    return (
        f"Twice as many ({variant.change}) would bring the spread of a step's gradient "
        f"{_moves(before, after)} of its norm, at {cost:.2f} x the encodings."
    )


def _batch(variant: Variant, before: float, after: float, cost: float) -> str:
    return (
        "Let the batch's other positives, which are encoded anyway, stand among the negatives: "
        f"the error of a step's gradient falls {_moves(before, after)}, at {cost:.2f} x the "
        "encodings."
    )


def _uniform(variant: Variant, before: float, after: float, cost: float) -> str | None:
    """None: it is all one."""
    figures = f"as many have an error of {after:.2f} against {before:.2f}"
    if is_less(before, after):
        return f"Uniform draws would do worse: {figures}, at {cost:.2f} x the encodings."
    if is_less(after, before):
        return f"Uniform draws would do better: {figures}, at {cost:.2f} x the encodings."
    if not variant.drops_store:
        return None
    return (
        f"Uniform draws would do as well: {figures}, with no cache to keep, at {cost:.2f} x the "
        "encodings."
    )


def _refresh(variant: Variant, before: float, after: float, cost: float) -> str:
    return (
        f"With {variant.change} the proposal's distance from the softmax (KL) would go "
        f"{_moves(before, after)} nats, at {cost:.2f} x the encodings."
    )


_FIGURES = {"draws": "sd", "batch": "error", "uniform": "error", "refresh": "kl"}
_SENTENCES = {"draws": _draws, "batch": _batch, "uniform": _uniform, "refresh": _refresh}
