"""What a run learns from: a task that is all at hand, or a stream that comes by."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from tokenizers import Tokenizer

from negcache.distributed import Mesh
from negcache.interfaces import Corpus, Known, Sampler
from negcache.known_positives import KnownPositives, PositivesById
from negcache.run.cli.planning.facts import Facts, facts_of, facts_of_streams
from negcache.run.cli.sampling import (
    CORPUS_FREE,
    SamplerInputs,
    check_on_disk,
    check_stream,
    check_word,
)
from negcache.run.cli.stream_checks import check_pairs_of_task, check_sizes
from negcache.run.cli.towers import Towers, check_tower
from negcache.run.data import Task, open_task
from negcache.run.data.mined import read_mined_negatives
from negcache.run.data.reading import reading
from negcache.run.data.streams import (
    ITEMS,
    BatchItems,
    Stream,
    StreamPairs,
    WithTokens,
    check_alike_ids,
    known_positives,
)
from negcache.run.data.tokenizer import TokenizerSettings, load_tokenizer, make_tokenizer
from negcache.run.progress import track
from negcache.run.together import on_first
from negcache.run.training import Config
from negcache.run.training.in_memory import PairsInMemory
from negcache.run.training.parts import TrainingData
from negcache.shapes import Tensor
from negcache.stores import StreamingCache

TOKENIZER = "tokenizer.json"
"""In the folder of a run whose tokenizer was trained on its own stream."""

FIRST_ROWS = 50_000
"""Of each stream, that a tokenizer is trained on."""


@runtime_checkable
class Source(Protocol):
    """What a run learns from, before towers and samplers are built over it.

    Attributes:
        task: that measures it; None: nothing does.
        tokenizer: of static towers; None where a transformer brings its own.
        fingerprints: of all that is learnt from, by config key.
    """

    @property
    def task(self) -> Task | None: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def fingerprints(self) -> dict[str, str]: ...
    def facts(self) -> Facts:
        """What a plan has to know."""
        ...

    def known(self) -> Known | None:
        """Positives of the training queries; sorted out where that has not been done."""
        ...

    def sampler_inputs(self, dim: int, device: torch.device) -> SamplerInputs:
        """What a sampler is built from, for embeddings of ``dim`` numbers on a device."""
        ...

    def corpus(self, towers: Towers, sampler: Sampler) -> Corpus:
        """Features of the items by id."""
        ...

    def training(self, towers: Towers) -> TrainingData:
        """Batches by number."""
        ...

    def save(self, folder: Path) -> None:
        """Write into the new folder of a run what it cannot do without."""
        ...


def open_source(config: Config, folder: Path) -> Source:
    """Open the data of a run; a tower that cannot be read is refused before.

    Args:
        config: of the run.
        folder: of the run; it need not exist.
    """
    check_tower(config)
    check_on_disk(config)
    if config.data.pairs is not None:
        return StreamSource.open(config, folder)
    task = open_evaluation(config)
    assert task is not None
    data = config.data
    negatives = None
    if data.negatives is not None:
        most = data.negatives_per_query
        negatives = read_mined_negatives(data.negatives, task, most=most, strict=data.strict)[0]
    return TaskSource(config, task, negatives)


def open_evaluation(config: Config) -> Task | None:
    """The task that a run is measured by; None: it has none."""
    data = config.data
    if data.source is None:
        return None
    return open_task(data.source, strict=data.strict, **asdict(_tokens(config)))


def _tokens(config: Config) -> TokenizerSettings:
    data = config.data
    own = data.tokenizer, data.lowercase, data.strip_accents
    return TokenizerSettings(data.max_tokens, data.vocab_size, *own)


@dataclass(frozen=True)
class TaskSource:
    """A task in memory-mapped files.

    Args:
        config: of the run.
        task: trained on and measured by.
        negatives: mined, of every query, [Q, h]; None: there are none.
    """

    config: Config
    task: Task
    negatives: Tensor | None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.task.tokenizer

    @property
    def fingerprints(self) -> dict[str, str]:
        found = {"data.source": self.task.fingerprint}
        if self.negatives is not None:
            told = hashlib.sha256(self.negatives.numpy().tobytes())
            found["data.negatives"] = told.hexdigest()
        return found

    def known(self) -> KnownPositives:
        return self.task.known_positives("train")

    def facts(self) -> Facts:
        return facts_of(self.task, self.config.tower.max_length)

    def sampler_inputs(self, dim: int, device: torch.device) -> SamplerInputs:
        num_items = len(self.task.corpus)

        def counts() -> Tensor:
            items = self.task.learnable("train").items
            return torch.bincount(items, minlength=num_items).to(device)

        return SamplerInputs(self.config, dim, device, num_items, counts)

    def corpus(self, towers: Towers, sampler: Sampler) -> Corpus:
        return towers.over(self.task)[1]

    def training(self, towers: Towers) -> PairsInMemory:
        train, config = self.task.learnable("train"), self.config
        return PairsInMemory(
            towers.over(self.task)[0],
            (train.queries, train.items),
            config.batch_size,
            config.seed,
            self.fingerprints,
            negatives=self.negatives,
            mesh=Mesh.now(),
        )

    def save(self, folder: Path) -> None:
        """Nothing: the task is where it was."""


@dataclass(frozen=True)
class StreamSource:
    """A stream of pairs, perhaps one of items without queries, perhaps a task that measures.

    Args:
        config: of the run.
        pairs, items: the streams.
        task: that measures; None: none does.
        own: a tokenizer trained on the streams; None: the task or the tower has one.
    """

    config: Config
    pairs: Stream
    items: Stream | None
    task: Task | None
    own: Tokenizer | None

    @staticmethod
    def open(config: Config, folder: Path) -> "StreamSource":
        """Find the files, and refuse, before work is spent, what cannot be trained on."""
        check_word(config.sampler.name)
        check_stream(config)
        data, mesh = config.data, Mesh.now()
        options = {
            "seed": config.seed,
            "window": data.window,
            "skip_broken": data.skip_broken,
            "mesh": mesh,
        }
        pairs = Stream.open(data.pairs or "", batch_size=config.batch_size, **options)
        items = None
        if data.items is not None:
            items = Stream.open(data.items, ITEMS, batch_size=data.items_per_step, **options)
            check_alike_ids(pairs, items)
        check_sizes(config, pairs, items)
        task, own = open_evaluation(config), None
        if task is not None:
            check_pairs_of_task(config, pairs, task)
        elif config.tower.kind == "static":
            own = _own_tokenizer(config, pairs, items, folder / TOKENIZER)
        return StreamSource(config, pairs, items, task, own)

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.own if self.task is None else self.task.tokenizer

    @property
    def fingerprints(self) -> dict[str, str]:
        found = {"data.pairs": self.pairs.fingerprint}
        if self.items is not None:
            found["data.items"] = self.items.fingerprint
        if self.task is not None:
            found["data.source"] = self.task.fingerprint
        if self.own is not None:
            found[TOKENIZER] = hashlib.sha256(self.own.to_str().encode()).hexdigest()
        return found

    def known(self) -> PositivesById | None:
        """All pairs are looked through, once; None: the target is all that is known."""
        return known_positives(self.pairs) if self.config.data.known_positives else None

    def facts(self) -> Facts:
        return facts_of_streams(self.config, self.pairs, self.items, self.task, self.tokenizer)

    def sampler_inputs(self, dim: int, device: torch.device) -> SamplerInputs:
        come = None if self.items is None else len(self.items.table)
        return SamplerInputs(self.config, dim, device, come=come)

    def corpus(self, towers: Towers, sampler: Sampler) -> Corpus:
        cache = sampler.store
        return cache if isinstance(cache, StreamingCache) else BatchItems(Mesh.now())

    def training(self, towers: Towers) -> StreamPairs:
        config = self.config
        return StreamPairs(
            self.pairs,
            None if config.sampler.name in CORPUS_FREE else self.items,
            WithTokens(towers.tokenize),
            config.accumulation,
            self.fingerprints,
            workers=config.data.workers,
        )

    def save(self, folder: Path) -> None:
        """The tokenizer that was trained on the streams."""
        if self.own is not None:
            self.own.save(str(folder / TOKENIZER))


def _own_tokenizer(config: Config, pairs: Stream, items: Stream | None, path: Path) -> Tokenizer:
    """As it was trained when the run began; the first process trains it."""

    def told() -> str:
        if path.is_file():
            with reading(path, "the tokenizer of the run", "restore the file from a copy"):
                return path.read_text(encoding="utf-8")
        blocks = track("training the tokenizer", size=len)(_first_texts(pairs, items))
        return make_tokenizer(blocks, _tokens(config)).to_str()

    text = on_first(Mesh.now(), told)
    return load_tokenizer(path, "restore the file of the run from a copy", text)


def _first_texts(pairs: Stream, items: Stream | None) -> Iterator[list[str]]:
    """Items, of the stream of their own where there is one, then queries."""
    for batch in (items or pairs).first(FIRST_ROWS):
        yield batch.texts or []
    for batch in pairs.first(FIRST_ROWS):
        yield batch.queries or []
