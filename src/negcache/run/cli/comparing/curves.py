"""Learning curves as PNG, drawn without a screen."""

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from negcache.errors import visible
from negcache.run.cli.comparing.history import AXES, Curve


def draw(curves: Sequence[tuple[str, Curve | None]], title: str) -> bytes:
    """A PNG: one panel for each axis of ``AXES``, one line for each run.

    Args:
        curves: name of the run and its curve; None is left out, and the others keep their colours.
        title: of the values.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for panel, (axis, label) in zip(panels, AXES.items(), strict=True):
        for number, (_, curve) in enumerate(curves):
            if curve is None:
                continue
            panel.plot(
                getattr(curve, axis),
                curve.values,
                marker="o" if len(curve.steps) <= 40 else None,
                markersize=3,
                color=f"C{number % 10}",
                linestyle=("-", "--", ":", "-.")[number // 10 % 4],
            )
        panel.set_xlabel(label)
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(title)
    names = [visible(name).replace("$", r"\$") for name, curve in curves if curve]  # no formulas
    figure.legend(panels[0].lines, names, loc="outside lower center", ncols=min(len(names), 5))
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()
