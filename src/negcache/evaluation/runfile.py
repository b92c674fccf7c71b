"""TREC run files: what every retrieval tool reads."""

from pathlib import Path

from negcache.errors import InputError
from negcache.evaluation.metrics import Ranking


def write_run(path: Path, ranking: Ranking, tag: str = "negcache") -> None:
    """Write ``query Q0 item rank score tag`` lines; ``ir_measures.read_trec_run`` reads them.

    Args:
        path: the file to write.
        ranking: what was found; names must hold no white space, as the format has no quotes.
        tag: name of the run, the last column.
    """
    with path.open("w", encoding="utf-8") as file:
        for query, item, rank, score in ranking.entries():
            if len(query.split()) != 1 or len(item.split()) != 1:
                raise InputError(
                    "names without white space in a TREC run file",
                    f"query {query!r}, item {item!r}",
                    "rename them in the dataset",
                )
            file.write(f"{query} Q0 {item} {rank} {score!r} {tag}\n")
