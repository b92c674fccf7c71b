"""What a run is: one frozen, typed, validated config, saved beside its results."""

import difflib
import reprlib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from negcache.errors import InputError
from negcache.run.training.config_tables import (
    MOST,
    STRICT,
    CacheConfig,
    DataConfig,
    Measure,
    OptimizerConfig,
    SamplerConfig,
    ScheduleConfig,
    ScoreConfig,
    TowerConfig,
)
from negcache.stores.undo_journal import KEPT

LONGEST_LINE = 4096
"""Characters of a line of TOML; keys of very many dots take time as their square."""


class Config(BaseModel):
    """A run. Steps are optimizer steps; ``*_every`` count steps, 0 means never.

    Args:
        steps: optimizer steps in all.
        max_seconds: of training steps, after which it is not trained on; None: any number.
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
    steps: int = Field(default=2000, ge=1, le=MOST)
    max_seconds: float | None = Field(default=None, gt=0, le=1e9, allow_inf_nan=False)
    batch_size: int = Field(default=128, ge=1, le=MOST)
    accumulation: int = Field(default=1, ge=1, le=2**20)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu"] = "auto"
    eval_every: int = Field(default=0, ge=0, le=MOST)
    log_every: int = Field(default=50, ge=1, le=MOST)
    checkpoint_every: int = Field(default=500, ge=0, le=MOST)
    keep_checkpoints: int = Field(default=2, ge=1, le=MOST)
    save_best: Measure | None = None
    early_stopping_patience: int = Field(default=0, ge=0, le=MOST)
    threads: int = Field(default=0, ge=0, le=1024)
    timeout_seconds: float = Field(default=600.0, gt=0, le=1e7)

    @model_validator(mode="after")
    def _streams(self) -> "Config":
        """A stream is learnt from with a streaming cache, and measured by a task alone."""
        if self.cache.kind == "streaming" and self.data.pairs is None:
            raise InputError(
                'data.pairs, a stream, with cache.kind "streaming"',
                f"data.source {self.data.source!r}, a task in memory",
                'take cache.kind "dense", or write the training pairs as files',
            )
        measured = ("eval_every", "save_best", "early_stopping_patience")
        wanted = [name for name in measured if getattr(self, name)]
        if wanted and self.data.source is None:
            raise InputError(
                f"data.source, a task whose dev split is measured, with {' and '.join(wanted)}",
                "data.pairs alone",
                "name a task beside the pairs, or leave those keys out",
            )
        return self

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
        if self.sampler.name == "in_batch" and self.batch_size < 2:
            raise InputError(
                'batch_size of at least 2 with sampler.name "in_batch"',
                f"{self.batch_size}, and so no negative",
                "enlarge the batch, or name another sampler",
            )
        if self.cache.on_disk and self.keep_checkpoints > KEPT:
            raise InputError(
                f"keep_checkpoints of at most {KEPT} with cache.on_disk",
                f"{self.keep_checkpoints}, and rows in files that lead back no further",
                "keep fewer, or leave the rows in memory",
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
        values = _toml(path.read_bytes().decode())  # line ends as they are
    except (OSError, ValueError) as error:
        raise InputError(f"TOML in {path}", str(error), "correct that line") from error
    for override in overrides:
        _override(values, override)
    return parse_config(values)


def _toml(text: str) -> dict[str, Any]:
    """The values of a TOML text; what would take for ever, or the stack, is a ValueError too."""
    if any(len(line) > LONGEST_LINE for line in text.splitlines()):
        raise ValueError(f"a line of more than {LONGEST_LINE:,} characters")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("values nested too deeply") from None


def parse_config(values: dict[str, Any]) -> Config:
    """Validate plain values; the first fault is raised as an InputError."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _explain(error.errors()[0]) from error


def differences(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """Dotted keys in which two configs differ, with both values."""
    other = dict(leaves(b.model_dump()))
    return [
        (key, value, other[key]) for key, value in leaves(a.model_dump()) if other[key] != value
    ]


def _override(values: dict[str, Any], override: str) -> None:
    """Put one ``a.b=value`` into nested dictionaries."""
    key, equals, text = override.partition("=")
    whole = equals and key.strip() and len(override.splitlines()) == 1
    if not whole or len(override) > LONGEST_LINE:
        raise InputError(
            "--set key=value, on one line",
            f"--set {override[:200]}",
            "write for example --set sampler.name=uniform, and --set again for another key",
        )
    try:
        value = _toml(f"value = {text}")["value"]
    except ValueError:
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
    got = f"{_shown(fault['input'])} ({type(fault['input']).__name__})"
    return InputError(f"config key {key} to be {rule}", got, f"correct {key} in the config")


def _unknown(key: str) -> InputError:
    known = [name for name, _ in leaves(_schema(Config))]
    by_leaf = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    near = by_leaf or difflib.get_close_matches(key[:100], known, n=1, cutoff=0.0)
    table = key.rpartition(".")[0]
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == table]
    others = f"; [{table}] has {', '.join(beside)}" if table and beside else ""
    return InputError(
        "a known config key", _shown(key), f"use {near[0]!r}, the nearest name{others}"
    )


def _shown(value: Any) -> str:
    """A value of any size and depth, shortened."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 200
    return short.repr(value)


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
