"""What a run is: one frozen, typed, validated config, saved beside its results."""

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from negcache.errors import InputError

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)

Measure = Literal["ndcg10", "mrr10", "r1", "r10", "r100"]
"""The names in ``evaluation.metrics.MEASURES``: higher is better."""


class DataConfig(BaseModel):
    """source: a built-in task or a folder; max_tokens: per text; strict: refuse faulty data.

    negatives: a file of mined negatives, of which ``negatives_per_query`` are kept.
    """

    model_config = STRICT
    source: str
    max_tokens: int = Field(default=128, ge=1)
    vocab_size: int = Field(default=16384, ge=2)
    strict: bool = False
    negatives: str | None = None
    negatives_per_query: int = Field(default=8, ge=1)


class TowerConfig(BaseModel):
    """shared: one tower for both sides; mini_batch_size: items encoded at once, 0: all.

    Of kind "static": dim, of the embeddings; width, of a token vector. Of kind "transformer":
    folder, of the model; the others as ``TransformerTower.load`` takes them.
    """

    model_config = STRICT
    kind: Literal["static", "transformer"] = "static"
    shared: bool = True
    mini_batch_size: int = Field(default=0, ge=0)
    dim: int = Field(default=64, ge=1)
    width: int | None = Field(default=None, ge=1)
    folder: str | None = None
    pooling: str | None = None
    query_prompt: str = ""
    item_prompt: str = ""
    max_length: int | None = Field(default=None, ge=1)
    gradient_checkpointing: bool = False
    train_layers: int | None = Field(default=None, ge=1)

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
    temperature: float = Field(default=0.05, gt=0)
    learn_temperature: bool = False
    normalize: bool = True


class SamplerConfig(BaseModel):
    """name: a sampler's word; num_negatives: draws per query; shared: with the whole batch.

    power: of the softmax drawn from; scored: share of the cache scored a step; uniform: further
    draws per query of a mixture; head: best items of head_tail.
    """

    model_config = STRICT
    name: str = "cached"
    num_negatives: int = Field(default=1, ge=1)
    shared: bool = True
    estimator: Literal["log_q_corrected", "cached_partition"] = "log_q_corrected"
    power: float = Field(default=1.0, gt=0)
    scored: float = Field(default=1.0, gt=0, le=1)
    uniform: int = Field(default=1, ge=1)
    head: int = Field(default=1, ge=1)


class CacheConfig(BaseModel):
    """refresh: share of the rows looked at again each step; refresh_rows: the same as a count.

    dtype: of the rows; int8 has a scale a row.
    """

    model_config = STRICT
    refresh: float = Field(default=0.01, ge=0, le=1)
    refresh_rows: int | None = Field(default=None, ge=0)
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"


class OptimizerConfig(BaseModel):
    """lr: learning rate; weight_decay: as torch.optim understands it.

    clip_norm: most that the norm of all gradients together may be; 0: anything.
    """

    model_config = STRICT
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class ScheduleConfig(BaseModel):
    """name: of the learning rate after the warmup; linear and cosine end at 0 after the last step.

    warmup_steps: optimizer steps in which it rises from near 0, the first of all ``steps``.
    """

    model_config = STRICT
    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)


class Config(BaseModel):
    """A run. Steps are optimizer steps; ``*_every`` count steps, 0 means never.

    Args:
        steps: optimizer steps in all.
        batch_size: queries per forward pass, of all processes together.
        accumulation: forward passes per optimizer step.
        device: "auto" or "cpu".
        keep_checkpoints: how many of the newest are kept.
        save_best: dev measure by which the best checkpoint is kept beside them.
        early_stopping_patience: evaluations without a better one that end the run; 0: none do.
        threads: torch threads; 0 leaves torch's choice. Results depend on it in the last bit.
        timeout_seconds: that processes wait for one another before they name who is missing.
    """

    model_config = STRICT
    data: DataConfig
    tower: TowerConfig = TowerConfig()
    score: ScoreConfig = ScoreConfig()
    sampler: SamplerConfig = SamplerConfig()
    cache: CacheConfig = CacheConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    steps: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    accumulation: int = Field(default=1, ge=1)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu"] = "auto"
    eval_every: int = Field(default=0, ge=0)
    log_every: int = Field(default=50, ge=1)
    checkpoint_every: int = Field(default=500, ge=0)
    keep_checkpoints: int = Field(default=2, ge=1)
    save_best: Measure | None = None
    early_stopping_patience: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)
    timeout_seconds: float = Field(default=600, gt=0)

    @model_validator(mode="after")
    def _keys_that_need_others(self) -> "Config":
        """What would never happen is refused."""
        if self.schedule.warmup_steps >= self.steps:
            raise InputError(
                f"schedule.warmup_steps below the {self.steps} steps",
                f"{self.schedule.warmup_steps}",
                "warm up for fewer steps, or train for more",
            )
        if self.save_best and not 0 < self.eval_every <= self.steps:
            raise InputError(
                f"eval_every from 1 to the {self.steps} steps with save_best",
                f"eval_every = {self.eval_every}",
                f"say how often {self.save_best} of the dev split is measured",
            )
        if self.early_stopping_patience and not self.save_best:
            raise InputError(
                f"save_best with early_stopping_patience ({', '.join(get_args(Measure))})",
                "none",
                "name the dev measure that decides",
            )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, apply ``key=value`` overrides, validate.

    Args:
        path: the file.
        overrides: such as ``sampler.name=uniform``; values as TOML writes them, quotes optional.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("a TOML config file", f"no file {path}", "check the path")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"TOML in {path}", str(error), "correct that line") from error
    for override in overrides:
        _override(values, override)
    return parse_config(values)


def parse_config(values: dict[str, Any]) -> Config:
    """Validate plain values; the first fault is raised as an InputError."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _explain(error.errors()[0]) from error


def differences(a: Config, b: Config) -> list[str]:
    """Dotted keys in which two configs differ, with both values."""
    other = dict(leaves(b.model_dump()))
    return [
        f"{key} ({value!r} -> {other[key]!r})"
        for key, value in leaves(a.model_dump())
        if other[key] != value
    ]


def _override(values: dict[str, Any], override: str) -> None:
    """Put one ``a.b=value`` into nested dictionaries."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(
            "--set key=value", f"--set {override}", "write for example --set sampler.name=uniform"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    *tables, leaf = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise _unknown(key.strip())
    values[leaf] = value


def _explain(fault: Any) -> InputError:
    """A pydantic fault in three clauses."""
    if isinstance(cause := fault.get("ctx", {}).get("error"), InputError):
        return cause
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return _unknown(key)
    if fault["type"] == "missing":
        return InputError(f"config key {key}", "no value", f"add it, or --set {key}=...")
    rule = fault["msg"].removeprefix("Input should be ")
    got = f"{fault['input']!r} ({type(fault['input']).__name__})"
    return InputError(f"config key {key} to be {rule}", got, f"correct {key} in the config")


def _unknown(key: str) -> InputError:
    known = [name for name, _ in leaves(_schema(Config))]
    by_leaf = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    near = by_leaf or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return InputError("a known config key", f"{key!r}", f"use {near[0]!r}, the nearest name")


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Nested names of all keys."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {
        name: _schema(kind) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        for name, kind in kinds.items()
    }


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested dictionaries."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
