"""TREC run files: what every retrieval tool reads."""

from pathlib import Path

from negcache.errors import InputError
from negcache.run.atomic import atomic_write
from negcache.run.evaluation.metrics import Ranking


def write_run(path: Path, ranking: Ranking, tag: str = "negcache") -> None:
    """Write ``query Q0 item rank score tag`` lines; ``ir_measures.read_trec_run`` reads them.

    Args:
        path: the file to write.
        ranking: what was found; names must hold no white space, as the format has no quotes.
        tag: name of the run, the last column.
    """
    for name in {*ranking.query_names, *(item for items in ranking.item_names for item in items)}:
        if len(name.split()) != 1:
            expected = "names without white space in a TREC run file"
            raise InputError(expected, repr(name), "rename it in the dataset")
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:
        for query, item, rank, score in ranking.entries():
            file.write(f"{query} Q0 {item} {rank} {score!r} {tag}\n")
