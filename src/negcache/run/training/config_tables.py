"""The tables of a config: what each may say, and which keys contradict each other."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from negcache.errors import InputError

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

MOST = 2**31 - 1
"""Of what is counted. What has a lower bound of its own cannot be larger in any sense."""

Measure = Literal["ndcg10", "mrr10", "r1", "r10", "r100"]
"""The names in ``evaluation.metrics.MEASURES``: higher is better."""


class DataConfig(BaseModel):
    """What is learnt from: a task, or a stream of pairs; then a task only measures.

    source: a built-in task or a folder; max_tokens: per text; strict: refuse faulty data.
    vocab_size, lowercase, strip_accents: of the tokenizer that is trained, unless ``tokenizer``
    names a tokenizer.json.
    negatives: a file of mined negatives, of which ``negatives_per_query`` are kept.

    pairs: files of training pairs, a folder, glob or address; items: those of items without
    queries, of which ``items_per_step`` come with each step; window: row groups shuffled together;
    skip_broken: leave out row groups that cannot be read; workers: processes that tokenize each
    stream ahead, 0: none; known_positives: no item of a query's other pairs is its negative, for
    which all pairs are looked through once.
    """

    model_config = STRICT
    source: str | None = None
    max_tokens: int = Field(default=128, ge=1, le=2**20)
    vocab_size: int = Field(default=16384, ge=2, le=2**24)
    tokenizer: str | None = None
    lowercase: bool = True
    strip_accents: bool = False
    strict: bool = False
    negatives: str | None = None
    negatives_per_query: int = Field(default=8, ge=1, le=MOST)
    pairs: str | None = None
    items: str | None = None
    items_per_step: int = Field(default=64, ge=1, le=MOST)
    window: int = Field(default=8, ge=1, le=MOST)
    skip_broken: bool = False
    workers: int = Field(default=0, ge=0, le=1024)
    known_positives: bool = True

    @model_validator(mode="after")
    def _one_kind(self) -> "DataConfig":
        """There is something to learn from, and no key that would do nothing."""
        if self.source is None and self.pairs is None:
            raise InputError(
                "data.source, a task, or data.pairs, files of training pairs",
                "neither",
                "name one, or --set data.source=...",
            )
        if self.tokenizer is not None:
            trained = ("vocab_size", "lowercase", "strip_accents")
            refuse_idle(self, "data", trained, "a tokenizer that is trained, no data.tokenizer")
        of_pairs = ("window", "skip_broken", "workers", "known_positives")
        of_streams = ("items", "items_per_step", *of_pairs)
        if self.pairs is None:
            refuse_idle(self, "data", of_streams, "data.pairs, files of training pairs")
        else:
            mined = ("negatives", "negatives_per_query")
            refuse_idle(self, "data", mined, "data.source alone: they are items of that task")
        if self.items is None:
            refuse_idle(self, "data", ("items_per_step",), "data.items, items without queries")
        return self


class TowerConfig(BaseModel):
    """shared: one tower for both sides; mini_batch_size: items encoded at once, 0: all.

    Of kind "static": dim, of the embeddings; width, of a token vector. Of kind "transformer":
    folder, of the model; the others as ``TransformerTower.load`` takes them.
    """

    model_config = STRICT
    kind: Literal["static", "transformer"] = "static"
    shared: bool = True
    mini_batch_size: int = Field(default=0, ge=0, le=MOST)
    dim: int = Field(default=64, ge=1, le=2**16)
    width: int | None = Field(default=None, ge=1, le=2**16)
    folder: str | None = None
    pooling: str | None = None
    query_prompt: str = ""
    item_prompt: str = ""
    max_length: int | None = Field(default=None, ge=1, le=2**20)
    gradient_checkpointing: bool = False
    train_layers: int | None = Field(default=None, ge=1, le=MOST)

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> "TowerConfig":
        """A key that would do nothing is refused, and a transformer needs its folder."""
        everywhere, static = {"kind", "shared", "mini_batch_size"}, {"dim", "width"}
        fields = type(self).model_fields
        own = static if self.kind == "static" else set(fields) - everywhere - static
        named = ", ".join(name for name in fields if name in own)
        for name, field in fields.items():
            value = getattr(self, name)
            if name not in everywhere | own and value != field.default:
                raise InputError(
                    f'keys of tower.kind "{self.kind}" ({named})',
                    f"tower.{name} = {value!r}",
                    f"leave tower.{name} out, or choose the other tower.kind",
                )
        if self.kind == "transformer" and self.folder is None:
            raise InputError(
                'tower.folder with tower.kind "transformer"',
                "none",
                "name the folder of a sentence-transformers or Hugging Face model on this disk",
            )
        return self


class ScoreConfig(BaseModel):
    """temperature: divides the inner product of the (normalised) embeddings."""

    model_config = STRICT
    temperature: float = Field(default=0.05, ge=1e-4, le=1e4)
    learn_temperature: bool = False
    normalize: bool = True


class SamplerConfig(BaseModel):
    """name: a sampler's word; num_negatives: draws per query; shared: with the whole batch; both
    are chosen by "auto".

    power: of the softmax drawn from; scored: share of the cache scored a step; uniform: further
    draws per query of a mixture; head: best items of head_tail.
    """

    model_config = STRICT
    name: str = "auto"
    num_negatives: int = Field(default=1, ge=1, le=MOST)
    shared: bool = True
    estimator: Literal["log_q_corrected", "cached_partition"] = "log_q_corrected"
    power: float = Field(default=1.0, gt=0, le=100)
    scored: float = Field(default=1.0, ge=1e-6, le=1)
    uniform: int = Field(default=1, ge=1, le=MOST)
    head: int = Field(default=1, ge=1, le=MOST)


class CacheConfig(BaseModel):
    """What remembers embeddings: kind "dense", those of all items; "streaming", of the last ones.

    refresh: share of the rows looked at again each step; refresh_rows: the same as a count; dtype:
    of the rows, int8 has a scale a row; on_disk: rows in files of the run's folder, not in memory.
    fill_checkpoint_seconds: after which a fill, of hours perhaps, is kept so far.
    Of kind "streaming": size, items held; row_weight and eviction as ``StreamingCache`` takes them.
    """

    model_config = STRICT
    kind: Literal["dense", "streaming"] = "dense"
    refresh: float = Field(default=0.01, ge=0, le=1)
    refresh_rows: int | None = Field(default=None, ge=0, le=2**40)
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    on_disk: bool = False
    fill_checkpoint_seconds: float = Field(default=300.0, gt=0, le=1e9, allow_inf_nan=False)
    size: int | None = Field(default=None, ge=2, le=2**40)
    row_weight: Literal["none", "uniform", "popularity", "dedup"] = "none"
    eviction: Literal["fifo", "least_recently_refreshed"] = "fifo"

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> "CacheConfig":
        """A streaming cache has a size; another has no key of one."""
        if self.kind == "dense":
            own = ("size", "row_weight", "eviction")
            refuse_idle(self, "cache", own, 'cache.kind "streaming"')
        elif self.size is None:
            raise InputError(
                'cache.size with cache.kind "streaming"',
                "none",
                "say how many items it holds; negcache plan shows their bytes",
            )
        return self


class OptimizerConfig(BaseModel):
    """lr: learning rate; weight_decay: as torch.optim understands it.

    clip_norm: most that the norm of all gradients together may be; 0: anything.
    """

    model_config = STRICT
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0, le=1e6)
    weight_decay: float = Field(default=0.0, ge=0, le=1e6)
    clip_norm: float = Field(default=0.0, ge=0)


class ScheduleConfig(BaseModel):
    """name: of the learning rate after the warmup; linear and cosine end at 0 after the last step.

    warmup_steps: optimizer steps in which it rises from near 0, the first of all ``steps``.
    """

    model_config = STRICT
    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0, le=MOST)


def refuse_idle(table: BaseModel, name: str, keys: Iterable[str], needed: str) -> None:
    """Raises InputError for a key that was set although nothing would use it."""
    for key in keys:
        value = getattr(table, key)
        if value != type(table).model_fields[key].default:
            raise InputError(
                f"{name}.{key} only with {needed}",
                f"{name}.{key} = {value!r} and not that",
                f"leave {name}.{key} out, or set what it needs",
            )
