"""Any task by name, written as a BEIR folder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from negcache.errors import InputError
from negcache.run.data.aside import written_aside
from negcache.run.data.cache import cache_folder
from negcache.run.data.cities import cities_tables
from negcache.run.data.debian import debian_tables
from negcache.run.data.go import go_tables
from negcache.run.data.tables import Tables
from negcache.run.data.wordnet import BUILT_IN, wordnet_tables

FETCHED = {"go": go_tables, "debian": debian_tables, "cities": cities_tables}
TASKS = (*BUILT_IN, *FETCHED)


def write_beir(
    name: str, out: Path | str, *, cache_dir: Path | None = None, allow_other_version: bool = False
) -> Path:
    """Write a task as ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv``.

    Args:
        name: ``wordnet-sense``, ``wordnet-reverse``, ``go``, ``debian`` or ``cities``.
        out: a folder that does not exist yet, or is empty.
        cache_dir: where downloads are kept; None: the user's cache folder.
        allow_other_version: take what the registry offers, whatever its checksum.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("a new or empty folder", f"{out}, which holds files", "name another one")
    tables = _tables(name, cache_folder(cache_dir), allow_other_version)
    with written_aside(out) as folder:
        (folder / "qrels").mkdir(parents=True)
        _write_lines(folder / "corpus.jsonl", tables.corpus)
        _write_lines(folder / "queries.jsonl", tables.queries)
        options = csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
        for split, judged in tables.splits().items():
            csv.write_csv(judged, folder / "qrels" / f"{split}.tsv", options)
    return out


def _tables(name: str, cache: Path, allow_other_version: bool) -> Tables:
    if name in BUILT_IN:
        return wordnet_tables(name)
    if name in FETCHED:
        return FETCHED[name](cache, allow_other_version=allow_other_version)
    raise InputError(f"a task: {', '.join(TASKS)}", repr(name), "use one of these names")


def _write_lines(path: Path, batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for batch in batches():
            stream.writelines(
                json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist()
            )
