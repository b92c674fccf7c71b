"""From tables to a prepared folder: texts, tokenizer, tokens, judgements and known positives."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from negcache.errors import InputError
from negcache.known_positives import KnownPositives
from negcache.run.atomic import atomic_write, remove
from negcache.run.checksum import sha256_of
from negcache.run.data import data_report
from negcache.run.data.judgements import Judgements
from negcache.run.data.prepared import SOURCES, TOKENIZER, write_manifest
from negcache.run.data.tables import Tables
from negcache.run.data.texts import TextTable, write_texts
from negcache.run.data.tokenizer import (
    TokenizerSettings,
    encode,
    load_tokenizer,
    make_tokenizer,
    training_texts,
)
from negcache.run.data.tokens import continue_tokens
from negcache.run.progress import track

FORMAT = 3  # of the prepared folder; raise it when what is written here changes


def prepare(tables: Tables, folder: Path, settings: TokenizerSettings, *, strict: bool) -> None:
    """Write everything a task needs into ``folder``; the manifest comes last.

    Texts, tokenizer and tokens that an earlier call left there are gone on from, unless the content
    of a source has changed. The files are those of a call that was never interrupted.
    """
    _begin(tables, folder)
    corpus = write_texts(folder / "corpus", _blocks("reading corpus")(tables.corpus()))
    queries = write_texts(folder / "queries", _blocks("reading queries")(tables.queries()))
    data_report.check_ids("corpus", corpus)
    data_report.check_ids("queries", queries)
    if len(corpus) < 2:
        raise InputError(
            "a corpus of at least 2 items",
            f"{len(corpus)} in {tables.files[0]}",
            "add items: with one there is nothing to tell apart",
        )
    splits, faults = data_report.judge(tables.splits(), queries, corpus)
    train = splits["train"].positives()
    if not len(train):
        raise _no_positives(tables, faults)
    if strict:
        data_report.report_faults(tables.name, faults, strict=True)
    _write_judgements(folder, splits, len(queries))
    _write_tokens(folder, corpus, queries, train, settings)
    told = {
        "format": FORMAT,
        "name": tables.name,
        "settings": settings.told(),
        "untidy": dict(faults),
        "fingerprint": _fingerprint(folder, settings),
    }
    write_manifest(folder, told)


def _begin(tables: Tables, folder: Path) -> None:
    """What was written for files of another content goes, and what was not written to its end."""
    sources = json.dumps({str(path): sha256_of(path) for path in tables.files}, indent=2)
    told = folder / SOURCES
    if told.exists() and told.read_text("utf-8") != sources:
        for other in list(folder.iterdir()):
            remove(other)
    for unfinished in [*folder.rglob(".*.part-*"), folder / "splits"]:
        remove(unfinished)
    if not told.exists():
        with atomic_write(told) as part:
            part.write_text(sources, "utf-8")


def _blocks(what: str, total: int | None = None) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A bar that counts the rows of blocks."""
    return track(what, total=total, size=len)


def _write_tokens(
    folder: Path,
    corpus: TextTable,
    queries: TextTable,
    train: Judgements,
    settings: TokenizerSettings,
) -> None:
    path = folder / TOKENIZER
    if not path.exists():
        texts = _blocks("training the tokenizer")(
            training_texts(corpus, queries, train.queries.numpy())
        )
        made = make_tokenizer(texts, settings)
        with atomic_write(path) as part:
            part.write_text(made.to_str(pretty=True), "utf-8")
    tokenizer = load_tokenizer(path, "remove the folder")
    for name, table in (("corpus", corpus), ("queries", queries)):

        def encoded(first: int, name: str = name, table: TextTable = table) -> Iterable[list]:
            bar = _blocks(f"tokenizing {name}", len(table) - first)
            return bar(encode(tokenizer, table.batches(first)))

        size = tokenizer.get_vocab_size()
        continue_tokens(folder / f"{name}.tokens", encoded, vocab_size=size)


def _write_judgements(folder: Path, splits: Mapping[str, Judgements], num_queries: int) -> None:
    for split, judged in splits.items():
        home = folder / "splits" / split
        home.mkdir(parents=True)
        np.save(home / "judgements.npy", np.stack([judged.queries, judged.items, judged.grades]))
        positives = judged.positives()
        known = KnownPositives.from_pairs(positives.queries, positives.items, num_queries)
        known.save(home / "known")


def _fingerprint(folder: Path, settings: TokenizerSettings) -> str:
    """A name for the prepared data itself: wherever it came from, equal data has equal names."""
    identity = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for pattern in ("**/*.npy", TOKENIZER)
        for path in sorted(folder.glob(pattern))
    }
    told = json.dumps([FORMAT, settings.told(), identity])
    return hashlib.sha256(told.encode()).hexdigest()


def _no_positives(tables: Tables, faults: Mapping[str, int]) -> InputError:
    counts = "; ".join(f"{count:,} {what}" for what, count in faults.items()) or "no judgements"
    return InputError(
        f"training positives (score above 0) in qrels/train of {tables.name}",
        f"none; {counts}",
        "check that qrels/train holds ids of queries and corpus, with scores",
    )
