"""In sentence-transformers' own trainer, what does the corpus softmax buy at equal CPU seconds?

    python -m benchmarks.against_mnrl [--models minilm static] [--tasks go debian code]

The same SentenceTransformer (MiniLM with its top two layers trained, or MiniLM's token vectors
averaged), the same trainer, AdamW, a constant learning rate, scale 20; 10,000 items a task, texts
cut at 32 tokens, bfloat16 autocast for MiniLM. One thread. All is on the clock of its method: the
first encoding of the corpus for ours, mining for ``mnrl_mined``; evaluation is on nobody's.

mnrl          MultipleNegativesRankingLoss, batch 64, no duplicates in a batch
cached_mnrl   CachedMultipleNegativesRankingLoss, batch 256, mini-batches of 64 (it refuses a
              StaticEmbedding)
mnrl_mined    mnrl for a third of the time, ``mine_hard_negatives`` (the best one that scores below
              .95 of the positive), then mnrl with them
corpus_cached CorpusSoftmaxLoss with shared cached draws joined by the batch, batch 64
corpus        CorpusSoftmaxLoss as it comes, batch 64

The learning rate of each method is the best of three on dev (seed 0, ``TUNING`` of the time); test
is looked at once a run. Resumable per (model, task, method, rate, seed).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import cos_sim, mine_hard_negatives
from transformers import TrainerCallback

import negcache as nc
from benchmarks.lower_layers import minilm_top, static
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import some
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs
from negcache.integrations.sentence_transformers.pairs import CorpusPairs
from negcache.interfaces import Sampler, Store
from negcache.run.data import Task

NAME = "against_mnrl"
TASKS = ("go", "debian", "code")
METHODS = {
    "static": ("mnrl", "mnrl_mined", "corpus_cached", "corpus"),
    "minilm": ("mnrl", "cached_mnrl", "mnrl_mined", "corpus_cached", "corpus"),
}
OURS = "corpus", "corpus_cached"
MODELS = {"static": static, "minilm": minilm_top}
SECONDS = {"static": 20.0, "minilm": 90.0}
TUNING = {"static": 1.0, "minilm": 0.4}
RATES = {"static": (1e-3, 3e-3, 1e-2), "minilm": (1e-4, 3e-4, 1e-3)}
BATCH, QUERIES, POINTS = 64, 1000, 2


@dataclass(frozen=True)
class Data:
    """Texts of a task, and the searches that measure it."""

    pairs: Dataset
    corpus: list[str]
    searches: dict[str, InformationRetrievalEvaluator]


@cache
def data(name: str) -> Data:
    """Training pairs as texts; dev and test queries over the whole corpus."""
    task, _ = static(name)
    queries = task.query_text.texts(torch.arange(len(task.query_text)))
    corpus = task.corpus_text.texts(torch.arange(len(task.corpus_text)))
    learnt = task.learnable("train")
    columns = {
        "anchor": [queries[row] for row in learnt.queries.tolist()],
        "positive": [corpus[row] for row in learnt.items.tolist()],
    }
    searches = {split: _search(task, split, queries, corpus) for split in ("dev", "test")}
    return Data(Dataset.from_dict(columns), corpus, searches)


def _search(
    task: Task, split: str, queries: list[str], corpus: list[str]
) -> InformationRetrievalEvaluator:
    asked = some(task.splits[split], QUERIES).positives()
    wanted: dict[str, set[str]] = {}
    for query, item in zip(asked.queries.tolist(), asked.items.tolist(), strict=True):
        wanted.setdefault(str(query), set()).add(str(item))
    return InformationRetrievalEvaluator(
        {query: queries[int(query)] for query in wanted},
        {str(row): text for row, text in enumerate(corpus)},
        wanted,
        batch_size=BATCH,
        score_functions={"cosine": cos_sim},
    )


def joined(pairs: CorpusPairs) -> Callable[[Store], Sampler]:
    """Cached draws that all queries share, with the batch's positives."""
    shares = pairs.log_popularity
    return lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 1), log_popularity=shares)


class Clock(TrainerCallback):
    """CPU seconds of one run; measures on the way, off the clock, and ends the run in time.

    Args:
        run: what is measured.
        seconds: when it ends.
    """

    def __init__(self, run: "Run", seconds: float) -> None:
        self.run, self.end = run, seconds
        self.points = [seconds * (point + 1) / POINTS for point in range(POINTS - 1)]
        self.started, self.until, self.steps = time.process_time(), seconds, 0

    @property
    def seconds(self) -> float:
        return time.process_time() - self.started

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps += 1
        if self.points and self.seconds >= self.points[0]:
            began = time.process_time()
            self.run.measure(self.points.pop(0), ("dev",))
            self.started += time.process_time() - began
        control.should_training_stop = self.seconds >= min(self.until, self.end)


@dataclass
class Run:
    """One method, rate and seed on a model and a task."""

    model_name: str
    task: str
    method: str
    rate: float
    seed: int
    seconds: float
    curve: bool

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.rows: list[dict[str, Any]] = []
        self.data, (_, self.model) = data(self.task), MODELS[self.model_name](self.task)

    def train(self) -> None:
        """To the end of the time; what was measured is kept."""
        self.clock = Clock(self, self.seconds)
        if not self.curve:
            self.clock.points = []
        getattr(self, f"_{self.method}")()
        self.measure(self.seconds, ("dev", "test"))
        append_rows(NAME, self.rows)
        print(*self.rows[-1].values(), flush=True)

    def measure(self, at: float, splits: tuple[str, ...]) -> None:
        """MRR@10 over the whole corpus."""
        found: dict[str, Any] = {"dev": "", "test": ""}
        with torch.no_grad(), self._autocast():
            rows = self.model.encode(self.data.corpus, batch_size=BATCH, convert_to_tensor=True)
            for split in splits:
                search = self.data.searches[split]
                scores: Any = search.compute_metrices(self.model, corpus_embeddings=rows)
                found[split] = round(scores["cosine"]["mrr@k"][10], 5)
        self.model.train()
        names = ("model_name", "task", "method", "rate", "seed")
        row = {name: getattr(self, name) for name in names} | {"budget": self.seconds}
        row |= {"at": round(at, 2), "steps": self.clock.steps} | found
        self.rows.append(row | hardware())

    def _mnrl(self) -> None:
        self._fit(self.data.pairs, MultipleNegativesRankingLoss(self.model))

    def _cached_mnrl(self) -> None:
        loss = CachedMultipleNegativesRankingLoss(self.model, mini_batch_size=BATCH)
        self._fit(self.data.pairs, loss, batch=4 * BATCH)

    def _mnrl_mined(self) -> None:
        self.clock.until = self.seconds / 3
        self._mnrl()
        with self._autocast():
            mined = mine_hard_negatives(
                self.data.pairs,
                self.model,
                corpus=self.data.corpus,
                num_negatives=1,
                relative_margin=0.05,
                range_max=20,
                use_faiss=True,
                batch_size=BATCH,
                verbose=False,
            )
        self.clock.until = self.seconds
        self._fit(mined, MultipleNegativesRankingLoss(self.model))

    def _corpus(self) -> None:
        pairs = corpus_pairs(self.data.pairs, self.data.corpus)
        loss = CorpusSoftmaxLoss(self.model, pairs, seed=self.seed)
        self._fit(pairs.dataset, loss, duplicates=True, callbacks=[loss.callback()])

    def _corpus_cached(self) -> None:
        pairs = corpus_pairs(self.data.pairs, self.data.corpus)
        loss = CorpusSoftmaxLoss(self.model, pairs, seed=self.seed, sampler=joined(pairs))
        self._fit(pairs.dataset, loss, duplicates=True, callbacks=[loss.callback()])

    def _fit(
        self,
        pairs: Any,
        loss: torch.nn.Module,
        *,
        batch: int = BATCH,
        duplicates: bool = False,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        with TemporaryDirectory() as folder:
            args = SentenceTransformerTrainingArguments(
                folder,
                per_device_train_batch_size=batch,
                max_steps=10**6,
                learning_rate=self.rate,
                lr_scheduler_type="constant",
                batch_sampler="batch_sampler" if duplicates else "no_duplicates",
                bf16=self.model_name == "minilm",
                use_cpu=True,
                seed=self.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            SentenceTransformerTrainer(
                self.model,
                args,
                train_dataset=pairs,
                loss=loss,
                callbacks=[*(callbacks or []), self.clock],
            ).train()

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.model_name == "minilm")


def run(model: str, task: str, method: str, rate: float, seed: int, share: float = 1.0) -> float:
    """The dev MRR@10 at the end; a finished run is not run again."""
    seconds = SECONDS[model] * share
    done = _ends(model, task, method, seconds)
    if (rate, seed) not in done:
        Run(model, task, method, rate, seed, seconds, curve=share == 1).train()
        done = _ends(model, task, method, seconds)
    return done[rate, seed]


def _ends(model: str, task: str, method: str, seconds: float) -> dict[tuple[float, int], float]:
    return {
        (float(r["rate"]), int(r["seed"])): float(r["dev"])
        for r in read_rows(NAME)
        if (r["model_name"], r["task"], r["method"]) == (model, task, method)
        and float(r["budget"]) == float(r["at"]) == seconds
    }


def tuned(model: str, task: str, method: str) -> float:
    """The learning rate with the best dev MRR@10."""
    share = TUNING[model]
    return max(RATES[model], key=lambda rate: run(model, task, method, rate, 0, share))


def verdict(models: list[str], tasks: list[str]) -> dict[str, Any]:
    """Test MRR@10 by method, and ours over the best of the others, means over common seeds."""
    answer: dict[str, Any] = {}
    for model in models:
        for task in tasks:
            test = {method: _tests(model, task, method) for method in METHODS[model]}
            common = set.intersection(*(set(found) for found in test.values()))
            if not common:
                continue
            means = {m: statistics.mean(found[s] for s in common) for m, found in test.items()}
            best = max(value for method, value in means.items() if method not in OURS)
            answer[f"{model}_{task}"] = {
                **{method: round(value, 4) for method, value in means.items()},
                "seeds": len(common),
                **{f"{method}_over_best": round(means[method] / best, 4) for method in OURS},
            }
    return answer


def _tests(model: str, task: str, method: str) -> dict[int, float]:
    """By seed, at the tuned rate, at the end of the whole time."""
    rate = tuned(model, task, method)
    return {
        int(r["seed"]): float(r["test"])
        for r in read_rows(NAME)
        if (r["model_name"], r["task"], r["method"]) == (model, task, method)
        and (float(r["rate"]), float(r["at"])) == (rate, SECONDS[model])
        and float(r["budget"]) == SECONDS[model]
    }


def plot(models: list[str], tasks: list[str]) -> None:
    """Dev MRR@10 against CPU seconds, means over seeds."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for model in models:
        for task in tasks:
            lines = panels.setdefault(f"{task}, {model}", {})
            for method in METHODS[model]:
                points: dict[float, list[float]] = {}
                for r in read_rows(NAME):
                    mine = (r["model_name"], r["task"], r["method"]) == (model, task, method)
                    rate, budget = float(r["rate"]), float(r["budget"])
                    if mine and (rate, budget) == (tuned(model, task, method), SECONDS[model]):
                        points.setdefault(float(r["at"]), []).append(float(r["dev"]))
                lines[method] = [(at, statistics.mean(found)) for at, found in points.items()]
    curves(NAME, panels, "CPU seconds", "dev MRR@10", log_x=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for model in options.models:
            for task in options.tasks:
                for method in METHODS[model]:
                    run(model, task, method, tuned(model, task, method), seed)
    plot(options.models, options.tasks)
    conclude(NAME, verdict(options.models, options.tasks))


if __name__ == "__main__":
    main()
