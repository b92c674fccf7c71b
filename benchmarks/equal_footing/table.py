"""The results as a page has them: a table for each place, with the query that its figures obey."""

from typing import Any

from benchmarks.equal_footing.rounds import Place
from benchmarks.equal_footing.verdict import places, verdict, word

COLUMNS = ("method", "MRR@10", "less `{}`", "R@100", "steps", "items encoded: a step", "million")
COMMENT = """<!-- figures: select value ->> '$.mrr10', value ->> '$.low', value ->> '$.high',
value ->> '$.r100', value ->> '$.steps', value ->> '$.encoded_a_step',
(value ->> '$.encoded') / 1e6 from equal_footing_answer, json_each({}, '$.methods') -->"""


def page() -> str:
    """Markdown for all places."""
    parts = ["Made by `python -m benchmarks.equal_footing --table`."]
    for place in places():
        parts += [_title(place), _table(place), COMMENT.format(word(place))]
    return "\n\n".join(parts) + "\n"


def _title(place: Place) -> str:
    of = f"{place.task}, {place.kind.model}, {place.seconds:g} CPU seconds a run"
    ours = place.kind.reference
    return f"{of}; 95 % intervals of the difference to `{ours}`: <!-- no measurement -->"


def _table(place: Place) -> str:
    head = [name.format(place.kind.reference) for name in COLUMNS]
    lines = [head, ("---",) * len(COLUMNS)]
    lines += [_line(place, *of) for of in verdict(place)["methods"].items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(place: Place, name: str, found: dict[str, Any]) -> tuple[str, ...]:
    whose = f"**{name}**" if name in place.kind.ours else name
    apart = "" if found["low"] is None else f"{found['low']:+.3f} to {found['high']:+.3f}"
    counts = ("", "", "")
    if found["steps"] is not None:
        counts = (f"{found['steps']:,}", f"{found['encoded_a_step']:,.0f}")
        counts += (f"{found['encoded'] / 1e6:.2f}",)
    return whose, f"{found['mrr10']:.3f}", apart, f"{found['r100']:.3f}", *counts
