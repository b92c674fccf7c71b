"""The data report: what real folders get wrong, in one warning, or refused when strict."""

import warnings
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from negcache.errors import InputError
from negcache.run.data.judgements import Judgements
from negcache.run.data.texts import TextTable


def check_ids(name: str, table: TextTable) -> None:
    """Refuse a table in which an id names two texts."""
    if len(repeated := table.repeated()):
        shown = ", ".join(repeated[:3].to_pylist()) + (", ..." if len(repeated) > 3 else "")
        raise InputError(
            f"distinct ids in the {name}",
            f"{len(repeated)} ids that occur more than once ({shown})",
            "remove or rename the repeated rows",
        )


def judge(
    tables: Mapping[str, pa.Table], queries: TextTable, corpus: TextTable
) -> tuple[dict[str, Judgements], Counter[str]]:
    """Judgements by row instead of by id, and the counts of what is faulty.

    Pairs with an unknown id are left out; of a pair judged twice the highest grade is kept.
    """
    splits, faults = {}, Counter[str]()
    judged = np.zeros(len(queries), bool)
    for split, table in tables.items():
        asked, item = queries.find(table["query-id"]), corpus.find(table["corpus-id"])
        grade = table["score"].to_numpy()
        faults["judgements of an unknown query (left out)"] += int((asked < 0).sum())
        faults["judgements of an unknown item (left out)"] += int((item < 0).sum())
        faults["judgements with a score of 0 or less (kept, no positives)"] += int(
            (grade <= 0).sum()
        )
        known = (asked >= 0) & (item >= 0)
        kept = _highest(asked[known], item[known], grade[known])
        faults["judgements of a pair judged before (left out)"] += int(known.sum()) - len(kept[0])
        splits[split] = Judgements(*(torch.from_numpy(column) for column in kept))
        judged[kept[0]] = True
    faults["items without text (kept)"] = corpus.num_empty()
    faults["queries without text (kept)"] = queries.num_empty()
    faults["queries without judgements (kept)"] = int((~judged).sum())
    return splits, +faults


def report_faults(name: str, faults: Mapping[str, int], *, strict: bool) -> None:
    """Say in one summary what is faulty; refuse it when strict."""
    if not faults:
        return
    counts = "; ".join(f"{count:,} {what}" for what, count in faults.items())
    if strict:
        raise InputError(
            f"a task without faults, {name}", counts, "clean the folder, or do without strict"
        )
    warnings.warn(f"{name}: {counts}.", stacklevel=3)


def _highest(queries: np.ndarray, items: np.ndarray, grades: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distinct pairs in the order of query and item, each with its highest grade."""
    order = np.lexsort((-grades, items, queries))
    queries, items, grades = queries[order], items[order], grades[order]
    same = (queries[1:] == queries[:-1]) & (items[1:] == items[:-1])
    first = np.concatenate([np.ones(min(len(order), 1), bool), ~same])
    return queries[first], items[first], grades[first]
