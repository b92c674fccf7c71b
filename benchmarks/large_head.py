"""What does a softmax over 234,908 classes cost a step, sampled against full, and what is learned?

    python -m benchmarks.large_head            # steps, then accuracy
    python -m benchmarks.large_head --tune     # the rates below, on dev

Another name of a city -> which city it is: 234,908 classes, 29 hashed character n-grams a name, a
table of 2^18 features with sparse gradients and a linear map as encoder (D = 64), batch 256.
``SoftmaxHead`` with bias and m = 100 draws for every query by the quadratic kernel, its sums
brought up to date at every tenth step, against ``nn.Linear`` and ``cross_entropy``. Adagrad for
both. A step is the features of the batch, forward, backward, the optimizer and ``table.flush()``.

Steps of the two in turn after 30 each of warm-up; the ratio is that of mean CPU seconds on one
thread, so that it holds what happens at every tenth step only. Accuracy: 2,000 test names, exact
search over all classes, after equal CPU seconds of training, evaluation left out; the rate is tuned
for ``uniform``, which stands for ``quadratic`` and ``exact``, for ``full`` and for ``rff``, whose
vectors are normalised. Resumable.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import negcache as nc
from benchmarks.datasets.city_names import open_city_classes, write_city_classes
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import kept
from negcache.messages import Batch
from negcache.run.data.labels import LabelledPoints
from negcache.shapes import Float, Int, Tensor
from negcache.towers.features import WeightedBagTower

NAME, D, BATCH, DRAWS, TESTED = "large_head", 64, 256, 100, 2000
WARM_UP, STEPS, MOMENTS = 30, 40, (5, 10, 20, 40)
GRID, TUNED_SECONDS = (0.01, 0.03, 0.1, 0.3), 20
RATES = {"uniform": 0.1, "full": 0.1, "rff": 0.1}

SAMPLERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "quadratic": (partial(nc.quadratic, update_every=10), {}),
    "rff": (
        partial(nc.rf_softmax, num_frequencies=512, update_every=10),
        {"normalize": True, "bias": False, "temperature": 0.05},
    ),
    "uniform": (nc.Uniform, {}),
    "exact": (nc.CachedSoftmax, {}),
}
METHODS = (*SAMPLERS, "full")


def cities() -> dict[str, LabelledPoints]:
    """Train, dev and test; written at the first use."""
    return dict(open_city_classes(kept("city-classes", write_city_classes)).splits)


class Model(nn.Module):
    """The encoder, and classes under a sampled or a full softmax."""

    def __init__(self, method: str, points: LabelledPoints) -> None:
        super().__init__()
        self.encoder = WeightedBagTower(points.num_features, D)
        self.encoder.features.sparse = True
        self.classes: nc.SoftmaxHead | nn.Linear
        if method == "full":
            self.classes = nn.Linear(D, points.num_labels)
        else:
            sampler, settings = SAMPLERS[method]
            self.classes = nc.SoftmaxHead(
                points.num_labels, D, sampler, DRAWS, sparse=True, **settings
            )

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of a batch."""
        hidden, target = self.encoder(batch.queries), batch.positives[:, 0]
        if isinstance(self.classes, nc.SoftmaxHead):
            return self.classes(hidden, target)
        return F.cross_entropy(self.classes(hidden), target)

    @torch.no_grad()
    def best(self, features: Any, k: int) -> Int[Tensor, "B k"]:
        """The k best classes of all, exactly."""
        hidden = self.encoder(features)
        if isinstance(self.classes, nc.SoftmaxHead):
            return self.classes.topk(hidden, k)[1]
        return self.classes(hidden).topk(k).indices


class Run:
    """One method, rate and seed, and the CPU seconds it has trained."""

    def __init__(self, method: str, points: LabelledPoints, rate: float, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model, self.seconds, self.steps = Model(method, points), 0.0, 0
        self.optimizer = torch.optim.Adagrad(self.model.parameters(), lr=rate)
        self.batches = self._epochs(points, torch.Generator().manual_seed(seed))

    def step(self) -> float:
        """One training step; its seconds."""
        start = time.process_time()
        batch = next(self.batches)
        self.optimizer.zero_grad()
        self.model(batch).backward()
        self.optimizer.step()
        if isinstance(self.model.classes, nc.SoftmaxHead):
            self.model.classes.table.flush()
        taken = time.process_time() - start
        self.seconds, self.steps = self.seconds + taken, self.steps + 1
        return taken

    def accuracy(self, points: LabelledPoints) -> dict[str, float]:
        """Top-1 and top-10 on a fixed random choice of rows."""
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(11))
        rows = order[:TESTED].sort().values
        found = [self.model.best(points.features[some], 10) for some in rows.split(BATCH)]
        hits = torch.cat(found) == torch.from_numpy(points.labels.items)[rows, None]
        return {f"top{k}": round(float(hits[:, :k].any(dim=1).float().mean()), 4) for k in (1, 10)}

    def _epochs(self, points: LabelledPoints, random: torch.Generator) -> Iterator[Batch]:
        while True:
            yield from points.batches(BATCH, random)


def check_rows_updated(run: Run) -> dict[str, int]:
    """One more step: how many rows of the table it moved, and how many were looked up."""
    head = run.model.classes
    assert isinstance(head, nc.SoftmaxHead)
    before = head.table.weight.detach().clone()
    head.report()
    run.step()
    moved = int((head.table.weight.detach() != before).any(dim=1).sum())
    looked_up = head.report().encoded_grad
    assert moved <= looked_up <= BATCH * (DRAWS + 1), (moved, looked_up)
    return {"rows_moved": moved, "targets_and_samples": looked_up}


def time_steps(points: LabelledPoints) -> None:
    """Steps of the sampled and of the full softmax in turn."""
    kinds = ("quadratic", "full")
    if len(read_rows(f"{NAME}_steps")) >= len(kinds):
        return
    runs = {kind: Run(kind, points, rate_of(kind)) for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(WARM_UP + STEPS):
        for kind, run in runs.items():
            seconds[kind].append(run.step())
    moved = {"quadratic": check_rows_updated(runs["quadratic"])}
    rows = []
    for kind in kinds:
        taken = seconds[kind][WARM_UP:]
        row = {"method": kind, "steps": STEPS, "mean_s": f"{statistics.mean(taken):.4f}"}
        row |= {"median_s": f"{statistics.median(taken):.4f}", "largest_s": f"{max(taken):.4f}"}
        rows.append(
            row | dict.fromkeys(("rows_moved", "targets_and_samples"), "") | moved.get(kind, {})
        )
        print(rows[-1], flush=True)
    append_rows(f"{NAME}_steps", [row | hardware() for row in rows])


def rate_of(method: str) -> float:
    """The tuned rate of a method, or of the one that stands for it."""
    return RATES.get(method, RATES["uniform"])


def compare(splits: dict[str, LabelledPoints]) -> None:
    """Accuracy after equal seconds; a finished method is not run again."""
    for method in METHODS:
        if sum(r["method"] == method for r in read_rows(NAME)) >= len(MOMENTS):
            continue
        run, rows = Run(method, splits["train"], rate_of(method)), []
        for moment in MOMENTS:
            while run.seconds < moment:
                run.step()
            row = {"method": method, "rate": rate_of(method), "seconds": moment}
            row |= {"steps": run.steps, **run.accuracy(splits["test"])}
            rows.append(row | hardware())
            print(*list(row.values()), flush=True)
        append_rows(NAME, rows)


def tune(splits: dict[str, LabelledPoints]) -> None:
    """Top-10 on dev after some seconds at each rate."""
    done = {(r["method"], r["rate"]) for r in read_rows(f"{NAME}_tuning")}
    for method in RATES:
        for rate in GRID:
            if (method, str(rate)) in done:
                continue
            run = Run(method, splits["train"], rate)
            while run.seconds < TUNED_SECONDS:
                run.step()
            row = {"method": method, "rate": rate, "seconds": TUNED_SECONDS, "steps": run.steps}
            append_rows(f"{NAME}_tuning", [row | run.accuracy(splits["dev"]) | hardware()])
            print(*list(read_rows(f"{NAME}_tuning")[-1].values())[:6], flush=True)


def answer() -> dict[str, Any]:
    """The ratio of mean steps, rows that moved, and accuracy at the end."""
    steps = {r["method"]: r for r in read_rows(f"{NAME}_steps")}
    ours, full = steps["quadratic"], steps["full"]
    figures: dict[str, Any] = {
        "step_ratio_to_full": round(float(ours["mean_s"]) / float(full["mean_s"]), 4),
        "median_ratio_to_full": round(float(ours["median_s"]) / float(full["median_s"]), 4),
        "step_s": float(ours["mean_s"]),
        "full_step_s": float(full["mean_s"]),
        "rows_moved": int(ours["rows_moved"]),
        "targets_and_samples": int(ours["targets_and_samples"]),
    }
    rows = read_rows(NAME)
    for column in ("top1", "top10", "steps"):
        last = {r["method"]: float(r[column]) for r in rows if r["seconds"] == str(MOMENTS[-1])}
        figures[f"{column}_after_{MOMENTS[-1]}_s"] = last
    panels = {
        column: {
            method: [(float(r["seconds"]), float(r[column])) for r in rows if r["method"] == method]
            for method in METHODS
        }
        for column in ("top1", "top10")
    }
    curves(NAME, panels, "CPU seconds of training", "share of test names", log_x=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="rates on dev, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = cities()
    if options.tune:
        return tune(splits)
    time_steps(splits["train"])
    compare(splits)
    conclude(NAME, answer())


if __name__ == "__main__":
    main()
