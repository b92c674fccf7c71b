"""Reads the judgements of one split."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet, types

from negcache.errors import InputError
from negcache.run.data.columns import choose, ids_of, is_text, texts_of
from negcache.run.data.reading import reading, refuse_odd
from negcache.run.data.tables import JUDGED
from negcache.run.data.tsv import read_tsv

MOST = 10_000
"""The largest grade: what evaluates runs holds, and looks through, a table of all grades."""

_WHOLE = r"^[+-]?[0-9]+(\.0+)?$"


def read_qrels(path: Path) -> pa.Table:
    """A table with the schema `JUDGED`, out of a TSV file with a header or a Parquet file."""
    remedy = "rename them; of a TSV file the first line names them, separated by tabs"
    wanted = partial(choose, path, needed=JUDGED.names, remedy=remedy)
    if path.suffix == ".parquet":
        refuse_odd(path)
        with reading(path, "a Parquet file"):
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read(wanted(file.schema_arrow.names))
            table.validate(full=True)  # finds text that is not UTF-8
        place = "row {}".format
    else:
        table, line = read_tsv(path, wanted)

        def place(row: int) -> str:
            return f"line {line(row)}"

    ids = [ids_of(path, table[name], name) for name in JUDGED.names[:2]]
    return pa.table([*ids, _grades(path, table["score"], place)], schema=JUDGED)


def _grades(path: Path, scores: pa.ChunkedArray, place: Callable[[int], str]) -> pa.ChunkedArray:
    """Whole numbers, also where they are written "1.0"."""
    values = texts_of(path, scores, "score") if is_text(scores.type) else scores
    if types.is_string(values.type):
        whole = pc.match_substring_regex(values, _WHOLE)
        values = pc.if_else(whole, values, None)
    elif not (types.is_integer(values.type) or types.is_floating(values.type)):
        raise InputError(
            f"whole numbers in the score column of {path}", str(values.type), "cast it"
        )
    numbers = pc.cast(values, pa.float64(), safe=False)
    right = pc.and_(pc.less_equal(pc.abs(numbers), MOST), pc.equal(pc.floor(numbers), numbers))
    bad = pc.invert(pc.fill_null(right, False))
    if (row := pc.index(bad, True).as_py()) >= 0:
        raise InputError(
            f"whole numbers from {-MOST} to {MOST} in the score column of {path}",
            f"{_shown(scores[row])} in {place(row)}",
            "grade each pair with an integer, 0 for no positive",
        )
    return pc.cast(numbers, pa.int64())


def _shown(value: Any) -> str:
    return repr(value.as_py())[:80]
