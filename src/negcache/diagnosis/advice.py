"""What to do, in words; every sentence has its figures from a sampler that was measured beside."""

from collections.abc import Iterator, Mapping

from negcache.diagnosis.report import Advice, SamplerReport
from negcache.diagnosis.variants import Variant

SAME = 0.05
"""Errors that differ by so much, relatively, are called the same."""

LIES = 1e-3
"""Weights whose p-value is below it are said to lie."""

LEAST = 1e-12
"""No p-value is said to be below it."""


def advise(
    own: SamplerReport, measured: Mapping[str, tuple[Variant, SamplerReport]]
) -> Iterator[Advice]:
    """What the figures say.

    Args:
        own: of the loss' own sampler.
        measured: variants of it, by name.
    """
    if own.p_value < LIES:
        yield Advice(
            "weights",
            f"What {own.name} draws does not stand for all items: with honest weights, sums would "
            f"come out so wrong with a chance of {max(own.p_value, LEAST):.1g} at most. Its loss "
            "and its gradient are biased, however much it draws.",
            "p_value",
            own.p_value,
            own.p_value,
            1.0,
            own.name,
        )
    for name, (variant, found) in measured.items():
        figure = _FIGURES[variant.kind]
        before, after = getattr(own, figure), getattr(found, figure)
        cost = found.cost / own.cost
        sentence = _SENTENCES[variant.kind](variant, before, after, cost)
        yield Advice(variant.kind, sentence, figure, before, after, cost, name)


def _moves(before: float, after: float) -> str:
    return f"from {before:.2f} to {after:.2f}"


def _draws(variant: Variant, before: float, after: float, cost: float) -> str:
    return (
        f"Twice as many ({variant.change}) would bring the spread of a step's gradient "
        f"{_moves(before, after)} of its norm, at {cost:.2f} x the encodings."
    )


def _batch(variant: Variant, before: float, after: float, cost: float) -> str:
    if after < before * (1 - SAME):
        return (
            "Let the batch's other positives, which are encoded anyway, stand among the negatives: "
            f"the error of a step's gradient falls {_moves(before, after)}, at {cost:.2f} x the "
            "encodings."
        )
    return (
        "The batch's other positives among the negatives would change little: the error of a "
        f"step's gradient goes {_moves(before, after)}."
    )


def _uniform(variant: Variant, before: float, after: float, cost: float) -> str:
    if after <= before * (1 + SAME):
        return (
            f"Uniform draws would do as well: as many have an error of {after:.2f} against "
            f"{before:.2f}, with no cache to keep, at {cost:.2f} x the encodings."
        )
    return (
        f"Uniform draws would do worse: as many have an error of {after:.2f} against {before:.2f}, "
        f"at {cost:.2f} x the encodings."
    )


def _refresh(variant: Variant, before: float, after: float, cost: float) -> str:
    little = "" if after < before * (1 - SAME) else "little would change: "
    return (
        f"With {variant.change} {little}the proposal's distance from the softmax (KL) would go "
        f"{_moves(before, after)} nats, at {cost:.2f} x the encodings."
    )


_FIGURES = {"draws": "sd", "batch": "error", "uniform": "error", "refresh": "kl"}
_SENTENCES = {"draws": _draws, "batch": _batch, "uniform": _uniform, "refresh": _refresh}
