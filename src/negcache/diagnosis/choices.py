"""What ``auto`` has chosen, what it foretold, and what its next best choices come to."""

from collections.abc import Iterator, Sequence

from negcache.diagnosis.items import FreshItems
from negcache.diagnosis.report import Advice, Outlook, SamplerReport
from negcache.diagnosis.variants import Variant
from negcache.interfaces import Sampler
from negcache.samplers import Auto
from negcache.samplers.budget import Budget
from negcache.samplers.look import Choice
from negcache.shapes import Tensor

AT_ONCE = 1 << 16
"""Rows of a cache that are written at a time."""

CLOSE = 0.05
"""What an exact step costs may differ by so much, relatively, before a choice is called better."""


def other_choices(sampler: Sampler, items: FreshItems | None, ids: Tensor) -> list[Variant]:
    """Choices near that of ``auto``: fewer and more draws of its kind, and the best of the other.

    Cached draws where there is no cache are measured over fresh rows, which is what is foretold.

    Args:
        sampler: the loss' own, at rest; another than ``auto`` has none.
        items: fresh embeddings of all items; None: there are only some, and no cache is made.
        ids: of all items.
    """
    if not isinstance(sampler, Auto) or sampler.budget is None:
        return []
    found = list[Variant]()
    for choice in [*_beside(sampler.budget), *_of_other_kind(sampler.budget)]:
        other = sampler.with_choice(choice)
        if choice.cached and sampler.store is None:
            if items is None or other.store is None:
                continue
            for part in ids.split(AT_ONCE):
                other.store.write(part, items(part))
        found.append(Variant("choice", named(choice), other))
    return found


def _beside(budget: Budget) -> list[Choice]:
    """Next to what is chosen, in the table of its kind."""
    own = budget.choice
    kind = sorted(c for c in budget.choices if _kind(c) == _kind(own) and c != own)
    fewer, more = [c for c in kind if c < own], [c for c in kind if c > own]
    return [*fewer[-1:], *more[:1]]


def _kind(choice: Choice) -> tuple[bool, float]:
    return choice.cached > 0, choice.scored


def _of_other_kind(budget: Budget) -> list[Choice]:
    """The best foretold of those with a cache, where none is kept; or without."""
    kind = [c for c in budget.seen if bool(c.cached) != bool(budget.choice.cached)]
    return [min(kind, key=budget.worth)] if kind else []


def outlook_of(sampler: Sampler, queries: int) -> Outlook | None:
    """What ``auto`` reckons of what it draws, for batches of so many queries."""
    if not isinstance(sampler, Auto) or sampler.budget is None:
        return None
    budget, choice = sampler.budget, sampler.choice
    foretold = budget.cosines.get(choice) if queries == budget.costs.queries else None
    chosen = choice.uniform, choice.cached, choice.scored
    return Outlook(chosen, 1e3 * budget.cost(choice), foretold)


def named(choice: Choice) -> str:
    """In words.

    Examples:
        >>> named(Choice(0)), named(Choice(64)), named(Choice(4, 128, 0.25))
        ("the batch's positives alone", '64 uniform', '4 uniform, 128 cached of 25% of the rows')
    """
    if not choice.uniform:
        return "the batch's positives alone"
    cached = f", {choice.cached} cached of {choice.scored:.0%} of the rows" * bool(choice.cached)
    return f"{choice.uniform} uniform{cached}"


def on_choices(own: SamplerReport, others: Sequence[SamplerReport]) -> Iterator[Advice]:
    """What was chosen, foretold and measured; first another choice, where it is worth more.

    Args:
        own: of the loss' own sampler.
        others: other choices of it.
    """
    if own.outlook is None:
        return
    best = min(others, key=lambda each: each.worth, default=own)
    told = [*_foretold(own, own.outlook), *([] if best is own else [_next_best(own, best)])]
    yield from reversed(told) if is_better(best.worth, own.worth) else told


def _foretold(own: SamplerReport, outlook: Outlook) -> Iterator[Advice]:
    if outlook.cosine is None:
        return
    sentence = (
        f"{own.name} draws {_beside_batch(outlook)} in a step; it foretold a cosine of "
        f"{outlook.cosine:.2f} between a step and the exact gradient, and {own.cosine:.2f} is "
        "measured."
    )
    yield Advice("foretold", sentence, "cosine", outlook.cosine, own.cosine, 1.0, own.name)


def is_better(worth: float, other: float) -> bool:
    """Whether an exact step costs so much less by one choice than by another."""
    return worth < other * (1 - CLOSE)


def _next_best(own: SamplerReport, best: SamplerReport) -> Advice:
    assert best.outlook is not None
    name = named(Choice(*best.outlook.choice))
    costs = (
        f"what an exact step does would cost {best.worth / own.worth:.2f} x as much (cost / "
        f"cosine^2: {best.worth:.3g} against {own.worth:.3g})."
    )
    if is_better(best.worth, own.worth):
        sentence = f"With {name} in place of its choice, {costs}"
    else:
        sentence = (
            f"No other choice that was measured is worth more: with {name}, the next, {costs}"
        )
    cost = best.cost / own.cost
    return Advice("choice", sentence, "worth", own.worth, best.worth, cost, best.name)


def _beside_batch(outlook: Outlook) -> str:
    choice = Choice(*outlook.choice)
    return named(choice) + " beside the batch's positives" * bool(choice.uniform)
