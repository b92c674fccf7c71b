"""Pictures of a diagnosis as SVG, drawn without a screen, to stand in the page itself."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from negcache.diagnosis import Diagnosis
from negcache.errors import visible

PLAIN = {"svg.fonttype": "none", "font.family": "sans-serif"}
"""Letters stay letters: they can be read, searched and copied."""


def draw_errors(found: Diagnosis) -> str:
    """Bias and spread of the gradient that each tower is handed, a bar for each sampler."""
    names = [visible(each.name).replace("$", r"\$") for each in found.samplers]
    figure = Figure(figsize=(11, 0.9 + 0.45 * len(names)), layout="constrained")
    for panel, side in zip(figure.subplots(1, 2, sharey=True), ("query", "item"), strict=True):
        towers = [getattr(each, side) for each in found.samplers]
        rows = range(len(names))
        panel.barh([row - 0.2 for row in rows], [each.bias for each in towers], 0.38, label="bias")
        panel.barh([row + 0.2 for row in rows], [each.sd for each in towers], 0.38, label="spread")
        panel.set_yticks(list(rows), names)
        panel.set_xlabel(f"{side} tower")
        panel.grid(axis="x", alpha=0.3)
    figure.supxlabel("of the exact gradient's norm", fontsize="medium")
    figure.axes[0].invert_yaxis()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return _svg(figure, "errors")


def draw_ages(found: Diagnosis) -> str:
    """How far stored rows are off, by age."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [_ages(each.youngest, each.oldest) for each in found.ages]
    left.plot(names, [each.error for each in found.ages], marker="o", label="mean")
    left.plot(
        names, [each.highest for each in found.ages], marker=".", ls=":", label="a tenth is above"
    )
    left.set_ylabel("|stored - fresh|² / |fresh|²")
    right.bar(names, [each.rows for each in found.ages])
    right.set_ylabel("rows")
    for panel in (left, right):
        panel.set_xlabel("age in optimizer steps")
        panel.tick_params(axis="x", rotation=45)
        panel.grid(alpha=0.3)
    left.set_ylim(bottom=0)
    left.legend()
    return _svg(figure, "ages")


def draw_coverage(found: Diagnosis) -> str:
    """What of the softmax the items hold that came last, by how many are kept."""
    rows, shares = zip(*found.coverage_by_rows, strict=True)
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    panel = figure.subplots()
    panel.plot(rows, shares, marker=".")
    panel.plot(rows[-2:-1], shares[-2:-1], marker="o", ls="")
    panel.set_xlabel("rows")
    panel.set_ylabel("coverage")
    panel.set_ylim(0, 1)
    panel.set_xlim(left=0)
    panel.grid(alpha=0.3)
    return _svg(figure, "coverage")


def draw_shares(parts: Mapping[str, float], unit: str) -> str:
    """Where something went, the largest first."""
    ordered: Sequence[tuple[str, float]] = sorted(parts.items(), key=lambda part: -part[1])
    figure = Figure(figsize=(11, 0.8 + 0.32 * len(ordered)), layout="constrained")
    panel = figure.subplots()
    panel.barh([name for name, _ in ordered], [value for _, value in ordered])
    panel.invert_yaxis()
    panel.set_xlabel(unit)
    panel.grid(axis="x", alpha=0.3)
    return _svg(figure, unit)


def _ages(youngest: int, oldest: int) -> str:
    return f"{youngest}" if youngest == oldest else f"{youngest}-{oldest}"


def _svg(figure: Figure, name: str) -> str:
    """The element alone, the same for the same figures."""
    picture = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(cast(Any, PLAIN | {"svg.hashsalt": name})):
        FigureCanvasSVG(figure).print_svg(picture, metadata=nothing)
    text = picture.getvalue()
    return text[text.index("<svg") :]
