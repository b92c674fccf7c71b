"""The tokenizer of a task: trained on its own texts, or the user's."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import (
    Encoding,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from negcache.errors import InputError
from negcache.run.checksum import sha256_of
from negcache.run.data.reading import clause, refuse_odd
from negcache.run.data.tables import BATCH_ROWS
from negcache.run.data.texts import TextTable

UNKNOWN = "[UNK]"
LONGEST_WORD = 100  # characters; a longer one is several words, or merges would take for ever
MOST_TEXTS = 400_000  # beyond this every k-th text of the corpus is learnt from
AT_ONCE = 1024  # texts; a text that is encoded takes some 200 bytes a token until it is written


@dataclass(frozen=True)
class TokenizerSettings:
    """What decides the tokens of a text.

    Args:
        max_tokens: every text is cut to so many.
        vocab_size: tokens in all, of a tokenizer that is trained.
        tokenizer: a ``tokenizer.json`` to take instead; None: one is trained.
        lowercase: capitals are small letters to one that is trained.
        strip_accents: letters with accents are those without.
    """

    max_tokens: int = 128
    vocab_size: int = 16384
    tokenizer: str | Path | None = None
    lowercase: bool = True
    strip_accents: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.vocab_size < 2:
            raise InputError(
                "max_tokens of at least 1 and vocab_size of at least 2",
                f"max_tokens={self.max_tokens}, vocab_size={self.vocab_size}",
                "raise them (128 and 16384 by default)",
            )

    def told(self) -> dict[str, Any]:
        """All of it as plain values; of a file its content."""
        own = None
        if self.tokenizer is not None:
            refuse_odd(Path(self.tokenizer))
            own = sha256_of(Path(self.tokenizer))
        return asdict(self) | {"tokenizer": own}


def make_tokenizer(texts: Iterable[list[str]], settings: TokenizerSettings) -> Tokenizer:
    """The user's own tokenizer, or one that is trained on texts.

    Args:
        texts: to learn from, in blocks; not asked for where there is a tokenizer.
        settings: of both.

    Raises:
        InputError: the user's file is no tokenizer, or its ids have gaps.
    """
    if settings.tokenizer is None:
        return _trained(texts, settings)
    path = Path(settings.tokenizer)
    refuse_odd(path)
    tokenizer = load_tokenizer(path, "name the tokenizer.json of a tokenizer")
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    if sorted(ids) != list(range(len(ids))):
        raise InputError(
            f"ids from 0 to {len(ids) - 1} for the {len(ids)} tokens of {path}",
            f"others, up to {max(ids, default=-1)}",
            "number the tokens anew, without gaps",
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings.max_tokens)
    return tokenizer


def load_tokenizer(path: Path, remedy: str, text: str | None = None) -> Tokenizer:
    """A tokenizer from its file, or from the text of it.

    Raises:
        InputError: it is none; the file is named.
    """
    try:
        return Tokenizer.from_str(path.read_text("utf-8") if text is None else text)
    except BaseException as failure:  # the library panics on some, with no Exception
        if isinstance(failure, KeyboardInterrupt | SystemExit):
            raise
        raise InputError("a tokenizer.json", f"{path}: {clause(failure)}", remedy) from failure


def _trained(texts: Iterable[list[str]], settings: TokenizerSettings) -> Tokenizer:
    """Byte-pair encoding of words and punctuation marks, each led by a "▁".

    The same texts give the same tokenizer. (WordPiece training does not: it numbers its "##"
    characters in the order of a hash map.) Vocabularies are smaller than asked for where there are
    few texts, larger where they hold more characters.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.BertNormalizer(
                lowercase=settings.lowercase, strip_accents=settings.strip_accents
            ),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{LONGEST_WORD}}}"), "isolated"),
            pre_tokenizers.Metaspace(split=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=2,
        special_tokens=[UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(settings.max_tokens)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Iterable[list[str]]) -> Iterator[list[list[int]]]:
    """Token ids of each text, `AT_ONCE` of them at a time."""
    for block in texts:
        for first in range(0, len(block), AT_ONCE):
            some = block[first : first + AT_ONCE]
            yield [text.ids for text in coded(tokenizer, some)]


def coded(tokenizer: Tokenizer, texts: list[str]) -> list[Encoding]:
    """Texts as the tokenizer codes them, without special tokens.

    Raises:
        InputError: it cannot, such as the user's own that knows no token for what is unknown.
    """
    try:
        return tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except Exception as failure:  # of tokenizers, which has no other
        raise InputError(
            "a tokenizer that can code every text",
            clause(failure),
            "give the tokenizer a token for what is unknown",
        ) from failure


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
