"""What is read: files are made and spoilt, negcache reads them, and so does the reference."""

import json
import random
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.fuzzing import mutations, reference
from benchmarks.fuzzing.reference import RefusalError
from negcache.run.data import open_interactions, open_task, read_xc
from negcache.run.data.beir import beir_tables
from negcache.run.data.mined import read_mined_negatives
from negcache.run.data.streams import Stream
from negcache.run.data.tokenizer import TokenizerSettings, coded, make_tokenizer
from negcache.run.training.config import leaves, load_config

CORPUS = [
    {"_id": f"d{i}", "title": f"Title {i}" if i % 2 else "", "text": f"some text of item {i}"}
    for i in range(6)
]
QUERIES = [{"_id": f"q{i}", "text": f"where is item {i}"} for i in range(4)]
JUDGED = [("q0", "d0", 1), ("q1", "d1", 2), ("q1", "d2", 1), ("q2", "d3", 0), ("q3", "d4", 1)]
MINED = [
    {"query-id": "q0", "positive-id": "d0", "negative-ids": ["d3", "d5"]},
    {"query-id": "q1", "positive-id": "d1", "negative-ids": ["d0", "d4"]},
    {"query-id": "q3", "positive-id": "d4", "negative-ids": ["d2"]},
]
XC = b"4 5 3\n2,0 0:0.5 4:1.5\n 1:2\n1 3:0.25\n0,2,1\n"
LOG = {
    "user": ["a", "a", "b", "a", "b", "c", "a"],
    "item": ["x", "y", "x", "z", "y", "w", "x"],
    "time": [4, 1, 3, 2, 2, 1, 9],
    "weight": [1.0, 2.0, 1.0, 0.0, 1.0, 1.0, 1.0],
}
PAIRS = [
    {"item": i, "query": f"query {i}", "text": f"text {i}", "title": "T" if i % 2 else ""}
    for i in range(5)
]
CONFIG = """\
steps = 6
batch_size = 16
[data]
source = "wordnet-sense"
max_tokens = 32
[sampler]
name = "cached"
num_negatives = 2
[score]
temperature = 0.1
[optimizer]
lr = 1e-3
"""
SETS = [
    "steps=3",
    "data.source=a/b",
    'tower.query_prompt="find: "',
    "optimizer.lr=1e-2",
    "cache.refresh_rows=5",
    "score.normalize=false",
    "sampler={name='uniform'}",
    "save_best=mrr10",
    "threads=2",
]


class Target(NamedTuple):
    """A reader.

    Args:
        make: writes a spoilt input into a new folder; gives what `ours` and `theirs` take.
        ours: what negcache reads of it.
        theirs: what it means; None: nobody says, and any reading will do.
        same: whether these two agree.
    """

    make: Callable[[Path, random.Random], Any]
    ours: Callable[[Any], Any]
    theirs: Callable[[Any], Any] | None
    same: Callable[[Any, Any], bool] = lambda ours, theirs: ours == theirs


def spoil(path: Path, rng: random.Random) -> None:
    """Spoil a file, now and then as a thing on the disk."""
    if rng.random() < 0.06:
        mutations.spoil_file(path, rng)
    elif path.suffix not in (".parquet", ".gz") or rng.random() < 0.1:
        path.write_bytes(mutations.spoil_bytes(path.read_bytes(), rng))


def write_rows(path: Path, rows: list[dict[str, Any]], rng: random.Random) -> Path:
    """JSON lines, plain or zipped, or Parquet; spoilt."""
    form = rng.choice([".jsonl", ".jsonl", ".jsonl.gz", ".parquet"])
    path = path.with_name(path.name + form)
    if form == ".parquet":
        return write_columns(path, {name: [row[name] for row in rows] for name in rows[0]}, rng)
    if rng.random() < 0.4:
        place = rng.randrange(len(rows))
        rows = [*rows[:place], mutations.spoil_row(rows[place], rng), *rows[place + 1 :]]
        path.write_bytes(mutations.as_lines(rows))
    text = mutations.as_lines(rows)
    path.write_bytes(mutations.spoil_zipped(text, rng) if form == ".jsonl.gz" else text)
    return path


def write_columns(path: Path, columns: dict[str, list[Any]], rng: random.Random) -> Path:
    """Parquet, with page checksums; a column spoilt, gone, or there twice."""
    made: list[tuple[str, Any]] = [(name, pa.array(values)) for name, values in columns.items()]
    place = rng.randrange(len(made))
    name, column = made[place]
    kind = rng.randrange(8)
    if kind == 0:
        del made[place]
    elif kind == 1:
        made.append(rng.choice(made))
    elif kind < 7:
        made[place] = name, mutations.spoil_column(column.to_pylist(), rng)
    whole = pa.Table.from_arrays([column for _, column in made], [name for name, _ in made])
    try:
        parquet.write_table(whole, path, write_page_checksum=True, store_schema=rng.random() < 0.8)
    except (pa.ArrowException, ValueError):
        parquet.write_table(pa.table(columns), path, write_page_checksum=True)
    return path


def write_judged(folder: Path, rng: random.Random) -> Path:
    folder.mkdir()
    form = rng.choice([".tsv", ".tsv", ".tsv.gz", ".parquet"])
    path, names = folder / f"train{form}", ["query-id", "corpus-id", "score"]
    if form == ".parquet":
        return write_columns(
            path, dict(zip(names, map(list, zip(*JUDGED, strict=True)), strict=True)), rng
        )
    text = "\n".join("\t".join(map(str, row)) for row in [names, *JUDGED]).encode() + b"\n"
    path.write_bytes(mutations.spoil_zipped(text, rng) if form == ".tsv.gz" else text)
    return path


def make_folder(folder: Path, rng: random.Random) -> Path:
    calm = random.Random(1)  # spoils nothing that cannot be read
    worst = rng.randrange(3)
    paths = []
    for number, (name, rows) in enumerate((("corpus", CORPUS), ("queries", QUERIES))):
        if number == worst:
            paths.append(write_rows(folder / name, rows, rng))
        else:
            paths.append(folder / f"{name}.jsonl")
            paths[-1].write_bytes(mutations.as_lines(rows))
    if worst == 2:
        paths.append(write_judged(folder / "qrels", rng))
    else:
        (folder / "qrels").mkdir()
        paths.append(folder / "qrels" / "train.tsv")
        rows = [("query-id", "corpus-id", "score"), *JUDGED]
        paths[-1].write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    assert calm
    spoil(paths[worst], rng)
    return folder


def ours_folder(folder: Path) -> Any:
    tables = beir_tables(folder)
    rows = [
        [tuple(row.values()) for batch in part() for row in batch.to_pylist()]
        for part in (tables.corpus, tables.queries)
    ]
    splits = {
        name: [tuple(row.values()) for row in found.to_pylist()]
        for name, found in tables.splits().items()
    }
    return *rows, splits


def _one(folder: Path, stem: str) -> Path:
    there = [folder / f"{stem}{end}" for end in (".jsonl", ".jsonl.gz", ".parquet")]
    found = [path for path in there if path.exists() or path.is_symlink()]
    if len(found) != 1:
        raise RefusalError(stem)
    return found[0]


def theirs_folder(folder: Path) -> Any:
    corpus = reference.texts(_one(folder, "corpus"), ["_id", "title", "text"])
    queries = reference.texts(_one(folder, "queries"), ["_id", "text"])
    files = [path for path in (folder / "qrels").iterdir() if not path.name.startswith(".")]
    splits = {path.name.partition(".")[0]: reference.judgements(path) for path in sorted(files)}
    if "train" not in splits:
        raise RefusalError("no train")
    return corpus, queries, splits


def ours_task(folder: Path) -> Any:
    task = open_task(folder, vocab_size=100)
    judged = {}
    for name, split in task.splits.items():
        ids = task.query_text.ids(split.queries), task.corpus_text.ids(split.items)
        judged[name] = {(q, d): g for q, d, g in zip(*ids, split.grades.tolist(), strict=True)}
    texts = [
        dict(zip(t.ids(), _words(t.texts(range(len(t)))), strict=True))
        for t in (task.corpus_text, task.query_text)
    ]
    return *texts, judged


def _words(texts: Any) -> list[str]:
    return [" ".join(text.split()) for text in texts]


def theirs_task(folder: Path) -> Any:
    corpus, queries, splits = theirs_folder(folder)
    items = dict(
        zip(
            (row[0] for row in corpus),
            _words(f"{t or ''} {x or ''}" for _, t, x in corpus),
            strict=True,
        )
    )
    asked = dict(zip((row[0] for row in queries), _words(x or "" for _, x in queries), strict=True))
    if len(items) < max(2, len(corpus)) or len(asked) < len(queries):
        raise RefusalError("ids")
    judged: dict[str, dict[tuple[str, str], int]] = {}
    for name, rows in splits.items():
        judged[name] = {}
        for q, d, grade in rows:
            if q in asked and d in items:
                judged[name][q, d] = max(grade, judged[name].get((q, d), grade))
    if not any(grade > 0 for grade in judged["train"].values()):
        raise RefusalError("no positive")
    return items, asked, judged


def make_mined(folder: Path, rng: random.Random) -> Path:
    if rng.random() < 0.7:
        path = write_rows(folder / "mined", MINED, rng)
    else:
        names = ["query-id", "positive-id", "negative-1", "negative-2", "negative-score"]
        rows = [
            (r["query-id"], r["positive-id"], *[*r["negative-ids"], ""][:2], "0.5") for r in MINED
        ]
        path = folder / "mined.tsv"
        path.write_text("".join("\t".join(row) + "\n" for row in [names, *rows]))
    spoil(path, rng)
    return path


class Mined:
    """Reads mined negatives of one task."""

    def __init__(self, home: Path) -> None:
        folder = home / "plain"
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_bytes(mutations.as_lines(CORPUS))
        (folder / "queries.jsonl").write_bytes(mutations.as_lines(QUERIES))
        rows = [("query-id", "corpus-id", "score"), *JUDGED]
        (folder / "qrels" / "train.tsv").write_text(
            "".join("\t".join(map(str, row)) + "\n" for row in rows)
        )
        self.task = open_task(folder, vocab_size=100, cache_dir=home / "of-mined")
        self.folder, self.cache = (
            folder,
            home / "to-be-spoilt",
        )  # the other is mapped, as a run's is
        self.before = self.content()

    def ours(self, path: Path) -> Any:
        return read_mined_negatives(path, self.task, most=3)[0].tolist()

    def theirs(self, path: Path) -> Any:
        queries, items = [r["_id"] for r in QUERIES], [r["_id"] for r in CORPUS]
        rows = reference.mined(path)
        right = {(q, d) for q, d, grade in JUDGED if grade > 0} | {(q, p) for q, p, _ in rows}
        found: dict[str, list[str]] = {q: [] for q in queries}
        for q, _, negatives in rows:
            for d in negatives:
                if q in found and d in items and (q, d) not in right and d not in found[q]:
                    found[q].append(d)
        width = max(map(len, found.values()))
        if not width:
            raise RefusalError("no negative")
        width = min(width, 3)
        return [[*map(items.index, own[:3]), *[-1] * width][:width] for own in found.values()]

    def content(self) -> Any:
        """Of the prepared task as it is opened now."""
        task = open_task(self.folder, vocab_size=100, cache_dir=self.cache)
        tokens = [task.corpus[torch.tensor([i])].tokens.tolist() for i in range(len(task.corpus))]
        return (
            task.fingerprint,
            tokens,
            task.corpus_text.ids(),
            task.splits["train"].grades.tolist(),
        )

    def make_damage(self, folder: Path, rng: random.Random) -> None:
        """Spoil a file of what is prepared."""
        [home] = (self.cache / "tasks").iterdir()
        path = rng.choice(sorted(one for one in home.rglob("*") if one.is_file()))
        kind = rng.randrange(6)
        if kind == 0:
            path.unlink()
        elif kind == 1:
            mutations.spoil_file(path, rng)
        elif kind == 2:
            shutil.copy(path, path.with_name(f"x{path.name}"))
        else:
            path.write_bytes(mutations.spoil_bytes(path.read_bytes(), rng))


def make_xc(folder: Path, rng: random.Random) -> Path:
    path = folder / "train.txt"
    path.write_bytes(XC)
    spoil(path, rng)
    return path


def ours_xc(path: Path) -> Any:
    found = read_xc(path)
    rows = []
    for i in range(len(found)):
        first, last = found.features.offsets[i], found.features.offsets[i + 1]
        pairs = zip(
            found.features.tokens[first:last].tolist(),
            found.features.values[first:last].tolist(),
            strict=True,
        )
        own = found.labels.items[found.labels.offsets[i] : found.labels.offsets[i + 1]]
        rows.append((set(own.tolist()), dict(pairs)))
    return (len(found), found.num_features, found.num_labels), rows


def theirs_xc(path: Path) -> Any:
    counts, rows = reference.points(path)
    return counts, [(own, {k: float(np.float32(v)) for k, v in bag.items()}) for own, bag in rows]


def make_log(folder: Path, rng: random.Random) -> Path:
    path = write_columns(folder / "log.parquet", LOG, rng)
    spoil(path, rng)
    return path


def ours_log(path: Path) -> Any:
    found = open_interactions(path)
    return {
        name: set(zip(found.users.ids(split.queries), found.items.ids(split.items), strict=True))
        for name, split in found.splits.items()
    }


def make_pairs(folder: Path, rng: random.Random) -> Path:
    path = folder / rng.choice(["a.jsonl", "a.jsonl.gz"])
    rows = PAIRS
    if rng.random() < 0.5:
        place = rng.randrange(len(rows))
        rows = [*rows[:place], mutations.spoil_row(rows[place], rng), *rows[place + 1 :]]
    text = mutations.as_lines(rows)
    path.write_bytes(mutations.spoil_zipped(text, rng) if path.suffix == ".gz" else text)
    if rng.random() < 0.6:
        spoil(path, rng)
    return path


def ours_pairs(path: Path) -> Any:
    stream = Stream.open(path, batch_size=1, seed=0, cache_dir=path.parent / "cache")
    found = []
    for batch in stream.first(10**6):
        keys = batch.identities.ids.keys or batch.item_ids.tolist()
        found += zip(keys, _words(batch.queries), _words(batch.texts), strict=True)
    return found


def theirs_pairs(path: Path) -> Any:
    rows = reference.pairs(path)
    columns = [list(column) for column in zip(*rows, strict=True)]
    return list(zip(columns[0], _words(columns[1]), _words(columns[2]), strict=True))


def make_config(folder: Path, rng: random.Random) -> Path:
    path = folder / "run.toml"
    path.write_bytes(mutations.spoil_bytes(CONFIG.encode(), rng))
    return path


def _given(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as failure:
        raise RefusalError(str(failure)) from failure


def theirs_config(path: Path) -> Any:
    try:
        return dict(leaves(_given(path.read_bytes().decode())))
    except UnicodeDecodeError as failure:
        raise RefusalError("no text") from failure


def make_set(folder: Path, rng: random.Random) -> tuple[Path, str]:
    (folder / "run.toml").write_text(CONFIG)
    override = mutations.spoil_bytes(rng.choice(SETS).encode(), rng).decode(
        "utf-8", "surrogateescape"
    )
    return folder / "run.toml", override


def theirs_set(what: tuple[Path, str]) -> Any:
    given = dict(leaves(_given(CONFIG)))
    key, equals, text = what[1].partition("=")
    if not equals or len(what[1].splitlines()) != 1:
        raise RefusalError("no key=value")
    try:
        found = tomllib.loads(f"v = {text}")
        value = found.pop("v")
        if found:
            raise RefusalError("more than one value")
    except (ValueError, RecursionError):
        value = text.strip()
    key = key.strip()
    given = {
        name: one
        for name, one in given.items()
        if not (isinstance(value, dict) and name.startswith(f"{key}."))
    }
    return given | (dict(leaves(value, f"{key}.")) if isinstance(value, dict) else {key: value})


def as_given(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether every value that was given is what is used."""
    return all(name in ours and ours[name] == value for name, value in theirs.items())


def make_tokenizer_file(folder: Path, rng: random.Random) -> Path:
    own = Tokenizer(
        models.BPE({"[UNK]": 0, "a": 1, "b": 2, "ab": 3}, [("a", "b")], unk_token="[UNK]")
    )
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    path = folder / "tokenizer.json"
    path.write_bytes(mutations.spoil_bytes(own.to_str().encode(), rng))
    return path


def ours_tokenizer(path: Path) -> Any:
    made = make_tokenizer([], TokenizerSettings(max_tokens=8, tokenizer=path))
    return [one.ids for one in coded(made, ["ab ba", "", "c" * 50])]


def targets(home: Path) -> dict[str, Target]:
    """All readers.

    Args:
        home: a folder for what they share.
    """
    mined = Mined(home)
    return {
        "beir": Target(make_folder, ours_folder, theirs_folder),
        "task": Target(make_folder, ours_task, theirs_task),
        "mined": Target(make_mined, mined.ours, mined.theirs),
        "prepared": Target(mined.make_damage, lambda _: mined.content(), lambda _: mined.before),
        "xc": Target(make_xc, ours_xc, theirs_xc),
        "interactions": Target(make_log, ours_log, reference.interactions),
        "streams": Target(make_pairs, ours_pairs, theirs_pairs),
        "config": Target(
            make_config,
            lambda path: dict(leaves(load_config(path).model_dump())),
            theirs_config,
            as_given,
        ),
        "set": Target(
            make_set,
            lambda what: dict(leaves(load_config(what[0], [what[1]]).model_dump())),
            theirs_set,
            as_given,
        ),
        "tokenizer": Target(make_tokenizer_file, ours_tokenizer, None),
    }


WEIGHTS = {
    "beir": 5,
    "task": 1,
    "mined": 4,
    "prepared": 1,
    "xc": 3,
    "interactions": 3,
    "streams": 2,
    "config": 2,
    "set": 3,
    "tokenizer": 1,
}
"""How often each is tried; json is kept for what is printed."""


def shown(what: Any) -> str:
    """An input, for people."""
    return json.dumps(str(what))
