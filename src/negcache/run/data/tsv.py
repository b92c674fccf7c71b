"""Tables of text: tab-separated, with a header, without quotes."""

import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from negcache.errors import InputError
from negcache.run.data.reading import LONGEST_LINE, line_fault, lines_of, text_of
from negcache.run.data.tables import BATCH_ROWS

csv.field_size_limit(LONGEST_LINE)


def read_tsv(
    path: Path, choose: Callable[[list[str]], Sequence[str]]
) -> tuple[pa.Table, Callable[[int], int]]:
    """Some columns as strings, and the line of each row.

    Args:
        path: gzip or plain; a cell is what stands between tabs, quotes and spaces included.
        choose: from the names in the header to those of the columns wanted.
    """
    rows = _rows(path)
    _, names = next(rows, (1, list[str]()))
    wanted = choose(names)
    places = [names.index(name) for name in wanted]
    lines, parts = list[int](), list[pa.Table]()
    schema = pa.schema([(name, pa.string()) for name in wanted])
    while block := list(islice(rows, BATCH_ROWS)):
        for number, cells in block:
            if len(cells) != len(names):
                told = f"{len(cells)} cells"
                raise line_fault(path, number, told, f"{len(names)} cells a line, as in the header")
            lines.append(number)
        columns = [pa.array([cells[place] for _, cells in block], pa.string()) for place in places]
        parts.append(pa.table(columns, schema=schema))
    return pa.concat_tables([schema.empty_table(), *parts]), lines.__getitem__


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line by line; blank lines are passed over."""
    numbered = lines_of(path)
    place = 0

    def texts() -> Iterator[str]:
        nonlocal place
        for place, line in numbered:
            yield text_of(path, place, line)

    cells = csv.reader(texts(), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    try:
        for row in cells:
            if row:
                yield place, row
    except csv.Error as failure:
        raise InputError(
            "tab-separated text", f"{path}, line {place}: {failure}", "correct that line"
        ) from failure
