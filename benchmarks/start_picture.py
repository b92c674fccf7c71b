"""The picture of the documentation's first page, drawn from what `first_comparison` measured.

    python -m benchmarks.start_picture

MRR@10 against optimizer steps and against CPU seconds, means over seeds. Equal rows give an equal
file, byte for byte.
"""

import statistics
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.record import read_rows

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "start.svg"
METHODS = {
    "full": ("full softmax", "0.2"),
    "cached_shared": ("cached, shared", "C3"),
    "uniform_2x": ("uniform, twice as many", "C2"),
    "uniform": ("uniform", "C0"),
    "in_batch": ("in-batch, log-q corrected", "C1"),
    "in_batch_plain": ("in-batch, uncorrected", "C4"),
}


def curve(method: str, axis: str) -> list[tuple[float, float]]:
    """Points of a method's mean curve over its seeds."""
    rows = [row for row in read_rows("first_comparison") if row["method"] == method]
    steps = sorted({int(row["step"]) for row in rows})
    means = []
    for step in steps:
        here = [row for row in rows if int(row["step"]) == step]
        x, y = (statistics.mean(float(row[column]) for row in here) for column in (axis, "mrr10"))
        means.append((x, y))
    return means


def draw(axes: Axes, axis: str, title: str) -> None:
    for method, (label, color) in METHODS.items():
        axes.plot(*zip(*curve(method, axis), strict=True), marker="o", label=label, color=color)
    axes.set(title=title, xlabel=axis, ylabel="MRR@10 over 22,047 items", ylim=(0.6, 0.83))
    axes.grid(alpha=0.3)


def main() -> None:
    with matplotlib.rc_context({"svg.hashsalt": "negcache", "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        draw(left, "step", "equal steps")
        draw(right, "seconds", "equal CPU seconds")
        right.set(xlim=(0, 100), ylabel="", xlabel="CPU seconds, one thread")
        left.set(xlabel="optimizer steps")
        right.legend(loc="lower right", fontsize="small")
        PICTURE.parent.mkdir(exist_ok=True)
        figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
