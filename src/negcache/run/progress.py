"""Progress bars with rate and time left, on standard error."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


def columns() -> tuple[ProgressColumn, ...]:
    """description, bar, count, rate, elapsed, left, note."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


@contextmanager
def bar(what: str, done: int, total: int) -> Iterator[Callable[[float], None]]:
    """A bar to move by one; each call shows a loss.

    Args:
        what: is being counted.
        done: steps of earlier processes.
        total: steps in all.
    """
    with Progress(*columns(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, completed=done, note="")

        def advance(loss: float) -> None:
            progress.update(task, advance=1, note=f"loss {loss:.3f}")

        yield advance


def track(
    what: str, *, total: int | None = None, size: Callable[[Any], int] = lambda _: 1
) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """Wraps an iterable in a bar that goes away when it is done; on a terminal only.

    Args:
        what: is being counted.
        total: in all; None: the length of a sequence, else unknown.
        size: how many an element counts for; ``len`` for blocks of rows.
    """

    def wrap(items: Iterable[Any]) -> Iterator[Any]:
        console = Console(stderr=True)
        hidden = not console.is_terminal
        with Progress(*columns(), console=console, transient=True, disable=hidden) as progress:
            known = len(items) if total is None and isinstance(items, Sequence) else total
            task = progress.add_task(what, total=known, note="")
            for item in items:
                yield item
                progress.advance(task, size(item))

    return wrap
