"""Opens a task by name or folder; the first time it is prepared, later it is there at once."""

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

from negcache.errors import InputError
from negcache.known_positives import KnownPositives
from negcache.run.data import prepared
from negcache.run.data.beir import beir_tables
from negcache.run.data.built_once import built_once, room_for
from negcache.run.data.data_report import report_faults
from negcache.run.data.downloads import cache_folder
from negcache.run.data.judgements import Judgements
from negcache.run.data.prepare import FORMAT, prepare
from negcache.run.data.prepared import TOKENIZER, damage, read_manifest, salvage
from negcache.run.data.tables import Tables
from negcache.run.data.task import Task
from negcache.run.data.texts import TextTable
from negcache.run.data.tokenizer import TokenizerSettings, load_tokenizer
from negcache.run.data.tokens import TokenFile
from negcache.run.data.wordnet import BUILT_IN, wordnet_tables


def open_task(
    source: str | Path,
    *,
    max_tokens: int = 128,
    vocab_size: int = 16384,
    tokenizer: str | Path | None = None,
    lowercase: bool = True,
    strip_accents: bool = False,
    strict: bool = False,
    cache_dir: Path | None = None,
    verify: bool = False,
) -> Task:
    """A task, tokenized once into memory-mapped files.

    A preparation that is interrupted is gone on with by the next call; of several processes one
    prepares, and the others wait for it.

    Args:
        source: ``wordnet-sense``, ``wordnet-reverse``, or a BEIR folder (JSON lines or Parquet).
        max_tokens: texts are cut to so many tokens.
        vocab_size: tokens of the tokenizer that is trained on the corpus and the train queries.
        tokenizer: a ``tokenizer.json`` to take instead.
        lowercase: capitals are small letters to the one that is trained.
        strip_accents: so are letters with accents those without; else "schön" is not "schon".
        strict: refuse a faulty folder, where otherwise a warning counts its faults.
        cache_dir: where prepared tasks are kept; None: ``$NEGCACHE_CACHE``, else the user's cache.
        verify: compare the content of the source files with what was prepared.
    """
    settings = TokenizerSettings(max_tokens, vocab_size, tokenizer, lowercase, strip_accents)
    tables = _tables(source)
    folder = cache_folder(cache_dir) / "tasks" / f"{tables.name}-{_key(tables, settings)}"
    build = built_once(folder, partial(damage, folder), partial(salvage, folder))
    with room_for("what is prepared", folder), build as parts:
        if parts is not None:
            prepare(tables, parts, settings, strict=strict)
    manifest = read_manifest(folder)
    assert manifest is not None
    if verify:
        prepared.verify(folder)
    report_faults(tables.name, manifest["untidy"], strict=strict)
    return _load(folder, tables.name, manifest["fingerprint"])


def _tables(source: str | Path) -> Tables:
    if source in BUILT_IN:
        return wordnet_tables(str(source))
    if Path(source).is_dir():
        return beir_tables(Path(source))
    raise InputError(
        f"a built-in task ({', '.join(BUILT_IN)}) or a BEIR folder",
        f"{str(source)!r}, which is neither",
        "check the path; a folder is made by: negcache data wordnet-sense OUT, or (`go`, `debian` "
        "and others) python -m benchmarks.datasets NAME OUT",
    )


def _key(tables: Tables, settings: TokenizerSettings) -> str:
    files = [
        [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in tables.files
    ]
    told = json.dumps([FORMAT, tables.name, settings.told(), files])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _load(folder: Path, name: str, fingerprint: str) -> Task:
    found = sorted(
        (folder / "splits").iterdir(), key=lambda home: (home.name != "train", home.name)
    )
    homes = {home.name: home for home in found}
    return Task(
        name=name,
        corpus=TokenFile.open(folder / "corpus.tokens"),
        queries=TokenFile.open(folder / "queries.tokens"),
        corpus_text=TextTable.open(folder / "corpus"),
        query_text=TextTable.open(folder / "queries"),
        splits={split: _judgements(home) for split, home in homes.items()},
        tokenizer=load_tokenizer(folder / TOKENIZER, "remove the folder"),
        fingerprint=fingerprint,
        known={split: KnownPositives.open(home / "known") for split, home in homes.items()},
    )


def _judgements(home: Path) -> Judgements:
    return Judgements(*torch.from_numpy(np.load(home / "judgements.npy")))
