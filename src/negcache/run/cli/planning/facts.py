"""What a plan has to know of the data, of a task or of streams."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from negcache.run.data import Task
from negcache.run.data.streams import Stream
from negcache.run.data.tokenizer import coded
from negcache.run.data.tokens import TokenFile
from negcache.run.training import Config

SAMPLED_ROWS = 1000
"""First rows of a stream, whose tokens stand for those of all."""


@dataclass(frozen=True)
class Facts:
    """What a plan has to know of the data.

    Args:
        num_items: N; of streams the rows, so at most.
        num_pairs: training pairs.
        vocab_size: of the tokenizer that static towers read.
        item_tokens, query_tokens: mean tokens of a text, as that tokenizer cuts it.
        judgement_bytes: of all judgements; they are held in memory.
        mapped_bytes: of the token files; mapped from disk, never all in memory.
        searched: items that evaluation and search encode; None: all.
        asked: queries of the dev split, which an evaluation encodes.
        feature_bytes: of what a streaming cache keeps beside a row.
        window_bytes: of the row groups of streams that are at hand.
    """

    num_items: int
    num_pairs: int
    vocab_size: int
    item_tokens: float
    query_tokens: float
    judgement_bytes: int = 0
    mapped_bytes: int = 0
    searched: int | None = None
    asked: int = 0
    feature_bytes: int = 0
    window_bytes: int = 0


def facts_of(task: Task, most_tokens: int | None = None) -> Facts:
    """The facts of an open task; reads no text and no token.

    Args:
        task: prepared.
        most_tokens: texts are cut to so many tokens once more, by the tower.
    """
    return Facts(
        num_items=len(task.corpus),
        num_pairs=len(task.judgements("train").positives()),
        vocab_size=task.vocab_size,
        item_tokens=_mean_length(task.corpus, most_tokens),
        query_tokens=_mean_length(task.queries, most_tokens),
        judgement_bytes=_judgement_bytes(task),
        mapped_bytes=_mapped_bytes(task),
        asked=_asked(task),
    )


def facts_of_streams(
    config: Config,
    pairs: Stream,
    items: Stream | None,
    task: Task | None,
    tokenizer: Tokenizer | None,
) -> Facts:
    """The facts of streams; reads and tokenizes their first rows.

    Args:
        config: of the run.
        pairs, items: the streams.
        task: that measures; None: none does.
        tokenizer: of static towers; None: the transformer's own is read.
    """
    texts, queries = [], []
    for batch in (items or pairs).first(SAMPLED_ROWS):
        texts += batch.texts or []
    for batch in pairs.first(SAMPLED_ROWS):
        queries += batch.queries or []
    if tokenizer is None or config.tower.kind == "transformer":
        from negcache.run.cli.planning.encoder import token_counts

        folder, most = Path(str(config.tower.folder)), config.tower.max_length
        counts, queried, beside = token_counts(folder, most, texts, queries)
    else:
        counts, queried = (_counts(tokenizer, each) for each in (texts, queries))
        beside = 4 * max(counts, default=0) + 8  # int32 tokens, padded to the longest; a length
    return Facts(
        num_items=len((items or pairs).table),
        num_pairs=len(pairs.table),
        vocab_size=0 if tokenizer is None else tokenizer.get_vocab_size(),
        item_tokens=_mean(counts),
        query_tokens=_mean(queried),
        judgement_bytes=0 if task is None else _judgement_bytes(task),
        mapped_bytes=0 if task is None else _mapped_bytes(task),
        searched=0 if task is None else len(task.corpus),
        asked=0 if task is None else _asked(task),
        feature_bytes=beside,
        window_bytes=sum(_window(config, each) for each in (pairs, items) if each is not None),
    )


def _window(config: Config, stream: Stream) -> int:
    """Of a window of middling row groups in each worker, or of it and the next here."""
    at_once = min(config.data.window, len(stream.table.rows))
    return round((config.data.workers or 2) * at_once * float(stream.table.sizes.mean()))


def _counts(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [len(each.ids) for each in coded(tokenizer, texts)]


def _mean(counts: Iterable[int]) -> float:
    found = list(counts)
    return sum(found) / max(len(found), 1)


def _judgement_bytes(task: Task) -> int:
    return sum(
        part.nbytes
        for judged in task.splits.values()
        for part in (judged.queries, judged.items, judged.grades)
    )


def _asked(task: Task) -> int:
    """Queries with a relevant item in the dev split."""
    if "dev" not in task.splits:
        return 0
    judged = task.judgements("dev")
    return len(judged.queries[judged.grades > 0].unique())


def _mapped_bytes(task: Task) -> int:
    files = (task.corpus, task.queries)
    return sum(file.tokens.nbytes + file.offsets.nbytes for file in files)


def _mean_length(file: TokenFile, most: int | None) -> float:
    lengths = np.diff(file.offsets)
    return float(np.minimum(lengths, most or lengths.max()).mean())
