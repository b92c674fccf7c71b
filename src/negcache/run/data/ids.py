"""Which ids there may be: those that a file of results can hold."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from negcache.errors import InputError
from negcache.run.data.reading import reading

BREAKS = r"[\x00\t-\r\x1c-\x1e\x{85}\x{2028}\x{2029}]"
"""NUL, tabs and what ends a line somewhere: no table of text can hold these."""

WHITE = (
    r"^$|[\x00\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}"
    r"\x{202f}\x{205f}\x{3000}]"
)
"""Nothing, or besides all that is white space to Python: no TREC run file can hold these."""


def refuse_unfit(path: Path, ids: pa.Array | pa.ChunkedArray, *, spaces: bool) -> None:
    """Refuse ids that could not be written down.

    Args:
        path: of the file they are from.
        ids: strings.
        spaces: whether they may hold spaces, and be empty: TREC run files cannot, tables can.
    """
    with reading(path, "ids that are text"):
        bad = ids.filter(pc.match_substring_regex(ids, BREAKS if spaces else WHITE))
    if len(bad):
        raise InputError(
            "ids without tabs or line breaks" if spaces else "ids without white space in them",
            f"{bad[0].as_py()!r} in {path}"
            + (f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""),
            "rename them"
            if spaces
            else "rename them: the run files of `evaluate` cannot hold them",
        )
