"""Bytes of a process by part: exact where torch's tensors are known, from below where estimated.

What is estimated counts only tensors that are certainly held at once, so that a plan that does
not fit does not fit.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from negcache.indexes.sums import ARITY
from negcache.ops.drawn_blocks import BLOCK, GATHER, walks
from negcache.ops.shards import part_rows, rows_of_each
from negcache.ops.two_stage import ALL_SCORES, AT_ONCE, CHUNK_SCORES, scores_all
from negcache.run.cli.planning.evaluating import evaluation_bytes
from negcache.run.cli.planning.planned_run import PlannedRun
from negcache.stores.file_table import FileTable
from negcache.stores.row_file import WINDOW, layout
from negcache.stores.undo_journal import KEPT

FLOAT, INT, STEP = 4, 8, 4

ALWAYS, LATER = "always", "later"

Where = Literal["device", "host", "disk"]


class Part(NamedTuple):
    """Bytes of one purpose.

    Args:
        where: "device" is the host too where there is no GPU.
        when: "always", the stage of a step that holds it, or "later", after training.
        exact: whether it is the sum of known tensors; else an estimate from below.
        lower: config keys that make it smaller.
    """

    name: str
    bytes: int
    where: Where
    when: str
    exact: bool
    lower: str


class Slots(NamedTuple):
    """Bytes of a streaming cache beside its rows.

    Args:
        lookup: made anew where a run goes on; the others are in its checkpoints.
        slots: items, when they came, the last arrivals.
        features: that items are encoded from; on the host.
        counters: how often each came.
    """

    lookup: int
    slots: int
    features: int
    counters: int

    @property
    def saved(self) -> int:
        """Of a checkpoint."""
        return self.slots + self.features + self.counters


def memory_parts(planned: PlannedRun) -> list[Part]:
    """All parts of a run, in the order they come to be."""
    return [*_kept(planned), *_drawing(planned), *_encoding(planned), *_around(planned)]


def parameter_bytes(planned: PlannedRun) -> int:
    """Of the towers and the temperature; float32."""
    return FLOAT * (planned.towers * planned.tower.parameters + 1)


def gradient_bytes(planned: PlannedRun) -> int:
    """Of everything that is trained."""
    learned = int(planned.config.score.learn_temperature)
    return FLOAT * (planned.towers * planned.tower.trained + learned)


def optimizer_bytes(planned: PlannedRun) -> int:
    """Two moments a trained number and a step count a tensor, for Adam; nothing for SGD."""
    if planned.config.optimizer.name == "sgd":
        return 0
    learned = int(planned.config.score.learn_temperature)
    return 2 * gradient_bytes(planned) + FLOAT * (planned.towers * planned.tower.tensors + learned)


def row_bytes(planned: PlannedRun) -> int:
    """Of a cached row in the cache's dtype, and of the step of its last write."""
    dtype: torch.dtype = getattr(torch, planned.config.cache.dtype)
    scale = FLOAT if dtype == torch.int8 else 0
    return planned.tower.dim * dtype.itemsize + scale + STEP


def cache_bytes(planned: PlannedRun) -> int:
    """Of the rows of a process that are in memory."""
    in_memory = planned.cost.keeps_cache and not planned.on_disk
    return planned.rows * row_bytes(planned) if in_memory else 0


def file_bytes(planned: PlannedRun) -> int:
    """Of the files of rows of all processes."""
    if not planned.on_disk:
        return 0
    columns = FileTable.columns(planned.tower.dim, getattr(torch, planned.config.cache.dtype))
    each = rows_of_each(planned.all_rows, planned.processes)
    return sum(layout(rows, columns)[1] for rows in each)


def journal_bytes(planned: PlannedRun) -> int:
    """Of what can be undone, of all processes: rows that are looked at again between checkpoints.

    From below: rows that a step encodes anyway are written too.
    """
    if not planned.on_disk:
        return 0
    config = planned.config
    every = [config.checkpoint_every or config.steps, config.steps]
    between = min([*every, config.eval_every] if config.save_best else every)
    rows = min(planned.all_rows, int(planned.looked_at * between))
    return min(KEPT, config.steps // between) * rows * (row_bytes(planned) + INT)


def stream_bytes(planned: PlannedRun) -> Slots:
    """What a streaming cache has beside its rows, alike on every process.

    S slots: the item of each and when it came, both sorted once more to look it up, and the last S
    arrivals (5 int64); features of each; with weights that are counted two tables of 2^20 int64.
    """
    if not planned.is_streaming:
        return Slots(0, 0, 0, 0)
    size, keys = planned.all_rows, planned.config.cache
    counted = keys.row_weight in ("popularity", "dedup")
    counters = 2 * INT << 20 if counted else 0
    saved = 3 * INT * size
    return Slots(2 * INT * size, saved, size * planned.facts.feature_bytes, counters)


def sums_bytes(planned: PlannedRun) -> int:
    """Kernel features summed over blocks of rows, and over nodes of blocks."""
    if planned.cost.features is None:
        return 0
    blocks = -(-planned.rows // BLOCK)
    return FLOAT * blocks * planned.cost.features(planned.tower.dim) * ARITY // (ARITY - 1)


def checkpoint_bytes(planned: PlannedRun) -> int:
    """Tensors of one checkpoint, of all processes: all of the above but gradients, and generators:
    the loss' and one of each process.
    """
    whole = replace(planned, processes=1)
    kept = cache_bytes(whole) + sums_bytes(whole) + stream_bytes(planned).saved
    own = torch.Generator().get_state().nbytes
    on_gpu = 16 * torch.cuda.device_count() if planned.on_gpu else 0
    generators = own + planned.processes * (own + on_gpu)
    return parameter_bytes(planned) + optimizer_bytes(planned) + kept + generators


def _kept(planned: PlannedRun) -> Iterator[Part]:
    """What is there from the first step to the last."""
    is_static = planned.config.tower.kind == "static"
    tower = "tower.width, tower.dim or data.vocab_size" if is_static else _dim(planned)
    yield Part("tower parameters", parameter_bytes(planned), "device", ALWAYS, True, tower)
    yield Part("gradients", gradient_bytes(planned), "device", "backward", True, tower)
    buckets = gradient_bytes(planned) if planned.processes > 1 else 0
    yield Part("gradients of all, as DDP adds them up", buckets, "device", ALWAYS, False, tower)
    state = f'{tower}, or optimizer.name="sgd"'
    yield Part("optimizer state", optimizer_bytes(planned), "device", ALWAYS, True, state)
    yield from _rows(planned)
    beside, size = stream_bytes(planned), "cache.size"
    places = beside.lookup + beside.slots
    yield Part("cache: slots and last arrivals", places, "device", ALWAYS, True, size)
    lower = "cache.size, data.max_tokens or tower.max_length"
    yield Part("cache: features", beside.features, "host", ALWAYS, False, lower)
    counted = 'cache.row_weight="none"'
    yield Part("cache: counters", beside.counters, "device", ALWAYS, True, counted)
    has_table = planned.config.data.pairs is None
    extra = planned.cost.bytes_per_item * planned.facts.num_items * has_table
    yield Part("sampler's item table", extra, "device", ALWAYS, True, "sampler.name")
    yield Part("sums of features", sums_bytes(planned), "device", ALWAYS, True, "sampler.name")
    pairs = planned.facts.judgement_bytes + 3 * INT * planned.facts.num_pairs * has_table
    yield Part("judgements and pairs", pairs, "host", ALWAYS, False, "the data")
    read, lower = planned.facts.window_bytes, "data.window, data.workers, or the row groups"
    yield Part("streams: row groups at hand", read, "host", ALWAYS, False, lower)


def _rows(planned: PlannedRun) -> Iterator[Part]:
    """Of the cache; in files: a byte and a bit each stay in memory, and windows that are read."""
    other = "in_batch" if planned.is_streaming else "uniform"
    fewer, still = _smaller_rows(planned), f'or sampler.name="{other}"'
    on_disk = "" if planned.on_gpu else "cache.on_disk=true, "
    yield Part("cache", cache_bytes(planned), "device", ALWAYS, True, f"{fewer}, {on_disk}{still}")
    if not planned.on_disk:
        return
    yield Part("cache: files of rows", file_bytes(planned), "disk", ALWAYS, True, fewer)
    often = f"{fewer}, cache.refresh or checkpoint_every"
    yield Part("cache: undo journals", journal_bytes(planned), "disk", ALWAYS, False, often)
    flags = planned.rows + -(-planned.rows // 8)
    yield Part("cache: which rows are valid", flags, "host", ALWAYS, True, fewer)
    read = min(WINDOW, planned.rows * row_bytes(planned))
    yield Part("draw: windows of rows", read, "host", "draw", False, fewer)


def _drawing(planned: PlannedRun) -> Iterator[Part]:
    """The exact draw: one chunk of scores, a mass for each block, the rows of the drawn blocks."""
    if not planned.cost.passes:
        return
    batch, items, dim = planned.asked, planned.rows, planned.tower.dim
    budget = CHUNK_SCORES["cuda" if planned.on_gpu else "cpu"]
    blocks = -(-items // BLOCK)
    chunk = min(max(1, budget // (BLOCK * batch)), blocks) * BLOCK * batch * FLOAT
    masses = batch * blocks * (3 * FLOAT + INT)  # chunks, joined; shifted; their float64 sums
    lower = "batch_size"
    if stream_bytes(planned).counters:
        weights = 3 * 8 * planned.all_rows  # float64: chances, what was missed, its log
        yield Part("draw: weights of rows", weights, "device", "draw", False, "cache.size")
    yield Part("draw: block masses", masses, "device", "draw", False, lower)
    yield Part("draw: a chunk of scores", chunk, "device", "draw", False, lower)
    if batch * items <= ALL_SCORES and scores_all(planned.each, items):
        yield Part(
            "draw: scores of all rows", batch * items * FLOAT, "device", "draw", False, lower
        )
    draws = batch * planned.each
    scores = min(draws, AT_ONCE) * BLOCK * FLOAT
    yield Part("draw: scores of drawn blocks", scores, "device", "draw", False, lower)
    if not walks(draws, items):
        rows = min(max(GATHER, BLOCK * dim), draws * BLOCK * dim) * FLOAT
        yield Part("draw: rows of drawn blocks", rows, "device", "draw", False, _dim(planned))


def _encoding(planned: PlannedRun) -> Iterator[Part]:
    """What a forward pass leaves for the backward pass."""
    config, facts, tower = planned.config, planned.facts, planned.tower
    batch, dim, here = planned.queries, tower.dim, planned.encoded_here
    at_once = min(here, config.tower.mini_batch_size or here)
    queries = batch * tower.kept.of(facts.query_tokens)
    items = at_once * tower.kept.of(facts.item_tokens) + planned.encoded * dim
    lower = "batch_size, sampler.num_negatives or tower.mini_batch_size"
    if config.sampler.name == "full":
        lower = 'sampler.name="cached", or tower.mini_batch_size'
    activations = round(FLOAT * (queries + items))
    yield Part("activations", activations, "device", "backward", False, lower)
    per_item = 3 * batch + planned.asked  # logits, terms, the gradient of one; weights for all
    scores = per_item * planned.table
    gathered = batch * planned.columns * dim
    lower = "batch_size, or sampler.name" if planned.is_pooled else "sampler.num_negatives"
    yield Part("scores", FLOAT * (scores + gathered), "device", "backward", False, lower)
    if planned.cost.keeps_cache:
        ages = 3 * INT * planned.rows
        found = planned.refreshed * dim * FLOAT
        lower = "cache.refresh_rows or cache.refresh"
        yield Part("refresh: ages and rows", ages + found, "device", "refresh", False, lower)


def _around(planned: PlannedRun) -> Iterator[Part]:
    """Checkpoints, evaluation and search."""
    config, state = planned.config, checkpoint_bytes(planned)
    lower = f"{_smaller_rows(planned)} or keep_checkpoints"
    if planned.on_gpu:
        whole = replace(planned, processes=1)
        others = cache_bytes(whole) - cache_bytes(planned)
        others += sums_bytes(whole) - sums_bytes(planned)
        yield Part("checkpoint, copied", state - others, "host", "checkpoint", True, lower)
    rows = part_rows(planned.all_rows) / planned.rows
    written = int(3 * cache_bytes(planned) * min(1.0, rows))  # torch's writer copies it twice
    yield Part("checkpoint: a part being written", written, "host", "checkpoint", False, lower)
    named = f"{config.keep_checkpoints} checkpoints{', the best' if config.save_best else ''}"
    kept = (config.keep_checkpoints + bool(config.save_best) + 1) * state
    yield Part(f"{named} and the next", kept, "disk", ALWAYS, True, lower)
    when = "evaluation" if config.eval_every else LATER
    searched = evaluation_bytes(planned)
    yield Part("evaluation: queries and a chunk", searched, "device", when, False, _dim(planned))
    rows = planned.searched * planned.tower.dim * FLOAT
    yield Part("search index", rows, "disk", LATER, True, _dim(planned))


def _dim(planned: PlannedRun) -> str:
    """The key that decides the dimensions."""
    is_static = planned.config.tower.kind == "static"
    return "tower.dim" if is_static else "tower.folder (a smaller model)"


def _smaller_rows(planned: PlannedRun) -> str:
    """The keys that decide the bytes of a cached row."""
    least = planned.config.cache.dtype == "int8" or not planned.cost.keeps_cache
    dim = f"cache.size, {_dim(planned)}" if planned.is_streaming else _dim(planned)
    return dim if least else f'cache.dtype="int8", {dim}'
