"""A subword tokenizer trained on the task's own texts."""

from collections.abc import Iterable, Iterator

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from negcache.run.data.tables import BATCH_ROWS
from negcache.run.data.texts import TextTable

UNKNOWN = "[UNK]"
MOST_TEXTS = 400_000  # beyond this every k-th text of the corpus is learnt from
AT_ONCE = 1024  # texts; a text that is encoded takes some 200 bytes a token until it is written


def train_tokenizer(texts: Iterable[list[str]], vocab_size: int, max_tokens: int) -> Tokenizer:
    """Byte-pair encoding of lower-cased words and punctuation marks, each led by a "▁".

    The same texts give the same tokenizer. (WordPiece training does not: it numbers its "##"
    characters in the order of a hash map.)

    Args:
        texts: to learn from, in blocks.
        vocab_size: tokens in all; fewer come of few texts, more where they hold more characters.
        max_tokens: every text is cut to its first ``max_tokens`` tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(split=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Iterable[list[str]]) -> Iterator[list[list[int]]]:
    """Token ids of each text, `AT_ONCE` of them at a time."""
    for block in texts:
        for first in range(0, len(block), AT_ONCE):
            some = block[first : first + AT_ONCE]
            yield [text.ids for text in tokenizer.encode_batch_fast(some, add_special_tokens=False)]


def training_texts(
    corpus: TextTable, queries: TextTable, train_queries: np.ndarray
) -> Iterator[list[str]]:
    """The corpus, or every k-th of its texts, and the queries of the training split alone."""
    yield from _every(corpus, 1 + (len(corpus) - 1) // MOST_TEXTS)
    rows = np.unique(train_queries)
    rows = rows[:: 1 + max(len(rows) - 1, 0) // MOST_TEXTS]
    for block in np.array_split(rows, 1 + len(rows) // BATCH_ROWS):
        yield queries.texts(block.tolist())


def _every(table: TextTable, step: int) -> Iterator[list[str]]:
    first = 0
    for block in table.batches():
        yield block[-first % step :: step]
        first += len(block)
