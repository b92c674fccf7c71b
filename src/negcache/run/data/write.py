"""A task written as a BEIR folder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from negcache.errors import InputError
from negcache.run.atomic import atomic_write
from negcache.run.data.tables import Tables
from negcache.run.data.wordnet import BUILT_IN, wordnet_tables


def write_beir(name: str, out: Path | str) -> Path:
    """Write a task that comes with negcache as a BEIR folder; see `write_tables`.

    Args:
        name: ``wordnet-sense`` or ``wordnet-reverse``.
        out: a folder that does not exist yet, or is empty.
    """
    if name not in BUILT_IN:
        raise InputError(
            f"a task: {', '.join(BUILT_IN)}", repr(name), "use one of these names, or your folder"
        )
    return write_tables(out, lambda: wordnet_tables(name))


def write_tables(out: Path | str, open_tables: Callable[[], Tables]) -> Path:
    """Write tables as ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv``.

    Args:
        out: a folder that does not exist yet, or is empty; looked at before anything is opened.
        open_tables: gives the tables.
    """
    out = new_folder(out)
    tables = open_tables()
    with atomic_write(out) as folder:
        (folder / "qrels").mkdir(parents=True)
        _write_lines(folder / "corpus.jsonl", tables.corpus)
        _write_lines(folder / "queries.jsonl", tables.queries)
        options = csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
        for split, judged in tables.splits().items():
            csv.write_csv(judged, folder / "qrels" / f"{split}.tsv", options)
    return out


def new_folder(out: Path | str) -> Path:
    """The absolute path of a folder that does not exist yet, or is empty; else an InputError."""
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("a new or empty folder", f"{out}, which holds files", "name another one")
    return out


def _write_lines(path: Path, batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for batch in batches():
            stream.writelines(
                json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist()
            )
