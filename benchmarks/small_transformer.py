"""A small transformer trained from scratch: what do chosen negatives buy at equal CPU seconds?

    python -m benchmarks.small_transformer [--tasks go debian] [--seconds 600] [--seeds 0]

Two layers of 128 dimensions, texts cut at 32 tokens, batch 128, Adam at 1e-3 after 100 steps of
warm-up, one thread. ``auto`` counts popularity as batches come; in-batch and uniform joined by the
batch are log-q corrected with the popularity of the training split. The runs of a task and seed
take turns of some steps in one process, so that a busy machine is busy for all of them. MRR@10 over
all items, 1,000 queries of test, at every sixth of the time (others: every half); of dev at the
end. ``auto_over_best``: at the end, by the best of the others on dev; ``time_to_best``: share of
the time after which ``auto`` has the best other's last MRR@10 on test. Resumable per (task, seed).
"""

import argparse
import math
import statistics
from typing import Any

import torch
from torch import nn

import negcache as nc
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import Build, Problem, Run, fetched, in_turns, log_popularity
from negcache.run.data import Task
from negcache.samplers import Auto
from negcache.shapes import Float, Tensor
from negcache.towers.static import Bags

NAME, RATE, QUERIES, BATCH = "small_transformer", 1e-3, 1000, 128
TOKENS, DIM, WARM_UP, TURN = 32, 128, 100, 5
POINTS = {"auto": 6, "others": 2}


class SmallTransformer(nn.Module):
    """Two layers over at most 32 tokens, averaged."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size + 1, DIM, padding_idx=vocab_size)
        self.places = nn.Embedding(TOKENS, DIM)
        layer = nn.TransformerEncoderLayer(
            DIM, 4, 4 * DIM, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(DIM)

    def forward(self, texts: Bags) -> Float[Tensor, "B D"]:
        ends = torch.cat([texts.starts[1:], texts.starts.new_tensor([len(texts.tokens)])])
        pieces = list(torch.tensor_split(texts.tokens, texts.starts[1:]))
        padding = self.tokens.num_embeddings - 1
        padded = nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=padding)
        there = torch.arange(padded.shape[1]) < (ends - texts.starts).clamp_min(1)[:, None]
        found = self.tokens(padded) + self.places.weight[: padded.shape[1]]
        found = self.norm(self.layers(found, src_key_padding_mask=~there))
        return (found * there[..., None]).sum(dim=1) / there.sum(dim=1, keepdim=True)


def problem(name: str) -> Problem:
    """A task under the small transformer."""
    return under(fetched(name, max_tokens=TOKENS))


def under(task: Task) -> Problem:
    """The task under the small transformer; its texts have at most ``TOKENS``."""
    return Problem(task, task.queries, task.corpus, lambda: SmallTransformer(task.vocab_size), DIM)


def _uniform(count: int, *, joined: bool) -> Build:
    def build(store, task: Task):
        shares = log_popularity(task) if joined else None
        uniform = nc.Uniform(task.corpus, count // BATCH)
        return nc.SharedDraws(uniform, log_popularity=shares), nc.log_q_corrected

    return build


METHODS: dict[str, Build] = {
    "auto": lambda store, task: (Auto(task.corpus), nc.log_q_corrected),
    "in_batch": lambda store, task: (nc.InBatch(log_popularity(task)), nc.log_q_corrected),
    "uniform_256": _uniform(256, joined=False),
    "uniform_128_in_batch": _uniform(128, joined=True),
}


def trained(task: str, seed: int, seconds: float) -> None:
    """All methods, a turn each until each has had its seconds; their figures are kept."""
    setting = problem(task)
    runs = {name: Run(setting, build, RATE, seed) for name, build in METHODS.items()}
    rows: list[dict[str, Any]] = []
    points = dict.fromkeys(runs, 1)
    for run in runs.values():
        _warm_up(run)
    for name, run in in_turns(runs, seconds, TURN):
        _warm_up(run)
        if run.seconds >= points[name] * seconds / POINTS.get(name, POINTS["others"]):
            point = {"task": task, "seed": seed, "of": seconds, "method": name}
            rows.append(point | _measured(run, last=run.seconds >= seconds) | hardware())
            points[name] += 1
    append_rows(NAME, rows)


def _warm_up(run: Run) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] = RATE * min(1.0, (run.step + 1) / WARM_UP)


def _measured(run: Run, *, last: bool) -> dict[str, Any]:
    sampler = run.loss.sampler
    row = run.figures() | {"chosen": list(sampler.choice) if isinstance(sampler, Auto) else ""}
    dev = run.test("dev", QUERIES)["mrr10"] if last else ""
    row |= {"dev_mrr10": dev} | run.test("test", QUERIES)
    print(row, flush=True)
    return row


def verdict(task: str, seconds: float) -> dict[str, Any]:
    """Means over the seeds that are finished."""
    rows = [r for r in read_rows(NAME) if r["task"] == task and float(r["of"]) == seconds]
    last = {(r["method"], r["seed"]): r for r in rows}
    seeds = sorted({r["seed"] for r in rows})
    means = {
        method: {
            part: statistics.mean(float(last[method, seed][part]) for seed in seeds)
            for part in ("dev_mrr10", "mrr10")
        }
        for method in METHODS
    }
    best = max(set(METHODS) - {"auto"}, key=lambda method: means[method]["dev_mrr10"])
    wanted = means[best]["mrr10"]
    reached = [_reached(rows, seed, wanted) for seed in seeds]
    share = statistics.mean(reached) / seconds
    return {
        "seeds": len(seeds),
        "best": best,
        "auto_over_best": round(means["auto"]["mrr10"] / wanted, 4),
        "time_to_best": round(share, 3) if share < math.inf else None,
        "steps": {method: int(last[method, seeds[0]]["step"]) for method in METHODS},
    }


def _reached(rows: list[dict[str, str]], seed: str, wanted: float) -> float:
    """Seconds after which ``auto`` was as good."""
    own = [r for r in rows if r["method"] == "auto" and r["seed"] == seed]
    there = [float(r["seconds"]) for r in own if float(r["mrr10"]) >= wanted]
    return min(there, default=math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["go", "debian"])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(r["task"], int(r["seed"]), float(r["of"])) for r in read_rows(NAME)}
    for task in options.tasks:
        for seed in options.seeds:
            if (task, seed, options.seconds) not in done:
                trained(task, seed, options.seconds)
    panels = {task: _curves(task, options.seconds) for task in options.tasks}
    curves(NAME, panels, "CPU seconds", "MRR@10", log_x=False)
    answer = {task: verdict(task, options.seconds) for task in options.tasks}
    conclude(NAME, {"seconds": options.seconds, **answer})


def _curves(task: str, seconds: float) -> dict[str, list[tuple[float, float]]]:
    rows = [r for r in read_rows(NAME) if r["task"] == task and float(r["of"]) == seconds]
    first = [r for r in rows if r["seed"] == rows[0]["seed"]]
    return {
        method: [(float(r["seconds"]), float(r["mrr10"])) for r in first if r["method"] == method]
        for method in METHODS
    }


if __name__ == "__main__":
    main()
