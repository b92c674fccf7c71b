"""Progress of long reading, on the terminal only."""

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Block = TypeVar("Block", bound=Sized)


def tracked(blocks: Iterable[Block], what: str, total: int | None = None) -> Iterator[Block]:
    """Pass blocks of rows through while a bar on stderr counts the rows."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(what, total=total)
        for block in blocks:
            yield block
            progress.advance(task, len(block))
