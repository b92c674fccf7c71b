"""Streams that contradict each other, their task or the cache are refused before work is spent."""

from negcache.errors import InputError
from negcache.run.data import Task
from negcache.run.data.streams import Stream
from negcache.run.training import Config

COMPARED_ROWS = 256


def check_sizes(config: Config, pairs: Stream, items: Stream | None) -> None:
    """The cache holds a step's items, and no more than can come. Raises InputError."""
    if config.cache.size is None:
        return
    arrive = config.batch_size + (0 if items is None else config.data.items_per_step)
    come = len(pairs.table) + (0 if items is None else len(items.table))
    if config.cache.size > come:
        raise InputError(
            f"a cache.size of at most the {come:,} rows of the streams",
            f"{config.cache.size:,}: it would never be full",
            "make the cache smaller, or name all files in data.pairs and data.items",
        )
    if config.cache.size < arrive:
        raise InputError(
            f"a cache.size of at least the {arrive:,} items that may come with a batch",
            f"{config.cache.size:,}",
            "make the cache larger, or batch_size and data.items_per_step smaller",
        )


def check_pairs_of_task(config: Config, pairs: Stream, task: Task) -> None:
    """The task measures something, and items of both have one text. Raises InputError.

    Looks at the first rows alone; ids that are whole numbers are not held against its names.
    """
    if not {"dev", "test"} & task.splits.keys():
        raise InputError(
            f"a dev or test split in {config.data.source}, which data.pairs leaves to measure",
            f"{', '.join(task.splits)} alone",
            "add qrels/dev.tsv or qrels/test.tsv, or leave data.source out",
        )
    for batch in pairs.first(COMPARED_ROWS):
        names = batch.identities.ids.keys
        if names is None or batch.texts is None:
            return
        rows = task.corpus_text.find(names)
        known = [place for place, row in enumerate(rows.tolist()) if row >= 0]
        for place, text in zip(known, task.corpus_text.texts(rows[known]), strict=True):
            if text != batch.texts[place]:
                raise InputError(
                    f"item {names[place]!r} with one text, {_short(text)} in {task.name}",
                    f"{_short(batch.texts[place])} in data.pairs",
                    "write the pairs with the task's texts, the title before each, or give other "
                    "items other ids",
                )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
