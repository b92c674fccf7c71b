"""Reads finished runs; refuses, before work is spent, runs that cannot be compared."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import torch
from accelerate.state import AcceleratorState

from negcache.errors import InputError
from negcache.packing import unpack
from negcache.run.cli.comparing.history import History, read_history
from negcache.run.cli.diagnosing.figures import read_diagnosis
from negcache.run.cli.evaluating import evaluate_run
from negcache.run.cli.runs import read_config, trained
from negcache.run.cli.sources import open_evaluation
from negcache.run.data import Task
from negcache.run.evaluation import Ranking, measure
from negcache.run.training import Config
from negcache.run.training.checkpoint import STATE, Checkpoints

DATA = ("source", "max_tokens", "vocab_size", "tokenizer", "lowercase", "strip_accents")
"""Keys that decide what a task is measured by."""


@dataclass(frozen=True)
class Found:
    """A run folder of which only the small files have been read.

    Args:
        name: of the run, distinct among those compared.
        step: of its newest checkpoint: how far it was trained.
        measured: step of the checkpoint that is measured, the best where there is one.
        fingerprints: of the data that it was trained on, by config key.
    """

    name: str
    folder: Path
    config: Config
    step: int
    measured: int
    fingerprints: dict[str, str]


@dataclass(frozen=True)
class Measured:
    """A run with all that a comparison needs.

    Args:
        per_query: ``{measure: {query name: value}}`` on the split compared.
        history: what metrics.jsonl and timings.jsonl tell, up to the checkpoint.
        diagnosis: the figures of ``negcache diagnose``; None: it has not looked.
    """

    found: Found
    per_query: dict[str, dict[str, float]]
    history: History
    diagnosis: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def means(self) -> dict[str, float]:
        """Mean of every measure over the queries."""
        return {name: sum(of.values()) / len(of) for name, of in self.per_query.items()}


def find_runs(folders: Sequence[Path]) -> list[Found]:
    """The runs in these folders, in order."""
    if len(folders) < 2:
        raise InputError(
            "two runs or more", f"{len(folders)}", "name the folders: compare RUN RUN..."
        )
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("different runs", "one folder twice", "name each run once")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_find(name, folder) for name, folder in zip(names, folders, strict=True)]


def open_data(runs: Sequence[Found], split: str) -> Task:
    """The one task that measures all these runs, with this split."""
    first = _task(runs[0])
    opened = {_settings(runs[0]): first}
    for run in runs:
        data, settings = run.config.data, _settings(run)
        task = opened[settings] if settings in opened else _task(run)
        opened[settings] = task
        known = run.fingerprints.get("data.source", "none")
        if task.fingerprint != known:
            raise InputError(
                f"the data that {run.folder} was trained on ({known[:12]})",
                f"other data in {data.source} ({task.fingerprint[:12]})",
                "restore the data, or train anew",
            )
        if task.fingerprint != first.fingerprint:
            raise InputError(
                f"runs of the same data and data settings as {runs[0].folder} ({_data(runs[0])})",
                f"other data in {run.folder} ({_data(run)})",
                "compare runs of one task with equal max_tokens and vocab_size",
            )
    first.judgements(split)
    return first


def _task(run: Found) -> Task:
    task = open_evaluation(run.config)
    if task is None:
        raise InputError(
            "runs that a task measures",
            f"{run.folder}, trained on data.pairs alone",
            "train with data.source beside data.pairs",
        )
    return task


def is_evaluated(run: Found, split: str) -> bool:
    """Whether the checkpoint that counts has been measured on this split."""
    told, ranking = (run.folder / "evaluation" / f"{split}.{end}" for end in ("json", "trec"))
    return ranking.is_file() and _read(told).get("step") == run.measured


def evaluate_now(run: Found, split: str) -> None:
    """Measure a run as ``negcache evaluate`` does."""
    AcceleratorState._reset_state(True)  # runs of different precision, one after the other
    with trained(run.folder) as opened:
        evaluate_run(opened, split)


def read_run(run: Found, task: Task, split: str) -> Measured:
    """A run that has been evaluated; its own means are checked against its ranking."""
    home = run.folder / "evaluation"
    per_query = _measure(home / f"{split}.trec", task, split)
    history = read_history(run.folder, run.step)
    measured = Measured(run, per_query, history, read_diagnosis(run.folder, run.step))
    told = _read(home / f"{split}.json")
    wrong = [k for k, v in measured.means.items() if not abs(v - told.get(k, math.nan)) < 1e-9]
    if wrong:
        raise _damage(home / f"{split}.trec", f"other {wrong[0]} than in {split}.json")
    return measured


def _find(name: str, folder: Path) -> Found:
    config = read_config(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    measured, paths = checkpoints.choose(), checkpoints.paths()
    state = dict(_read(paths[-1] / STATE).get("dict", []))
    if not {"step", "fingerprints"} <= state.keys():
        raise InputError(
            "an intact checkpoint",
            f"a damaged file {paths[-1] / STATE}",
            f"take the checkpoint before it: negcache resume {folder} --fall-back",
        )
    return Found(name, folder, config, state["step"], measured, unpack(state["fingerprints"], {}))


def _measure(path: Path, task: Task, split: str) -> dict[str, dict[str, float]]:
    """The values of every query that has a relevant item, from the ranking that was kept."""
    ranked: dict[str, list[tuple[str, float]]] = {}
    try:
        for entry in ir_measures.read_trec_run(str(path)):
            ranked.setdefault(entry.query_id, []).append((entry.doc_id, entry.score))
        scores = torch.tensor([[score for _, score in row] for row in ranked.values()])
    except ValueError as error:
        raise _damage(path, str(error)) from error
    if bool((scores.diff(dim=1) > 0).any()):
        raise _damage(path, "scores that rise within a query")
    judged = task.judgements(split)
    known = torch.isin(judged.queries, judged.queries[judged.grades > 0])
    queries = task.query_text.ids(judged.queries[known])
    if ranked.keys() != set(queries):
        raise _damage(path, f"{len(ranked)} queries instead of {len(set(queries))}")
    items = [[item for item, _ in row] for row in ranked.values()]
    ranking = Ranking(list(ranked), items, scores)
    return measure(
        ranking, queries, task.corpus_text.ids(judged.items[known]), judged.grades[known]
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _settings(run: Found) -> tuple[Any, ...]:
    return tuple(getattr(run.config.data, name) for name in DATA)


def _data(run: Found) -> str:
    named = zip(DATA, _settings(run), strict=True)
    return ", ".join(f"{name} {value}" for name, value in named if value is not None)


def _damage(path: Path, how: str) -> InputError:
    return InputError(
        f"an intact evaluation {path}",
        how,
        f"measure it again: negcache evaluate {path.parent.parent} --split {path.stem}",
    )
