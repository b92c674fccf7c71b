"""The runs of a task: trials on dev, then what was chosen on test; finished ones are read back."""

from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

from benchmarks.equal_footing.race import Runner, race
from benchmarks.equal_footing.ranks import written
from benchmarks.equal_footing.regime import Regime
from benchmarks.equal_footing.regimes import REGIMES
from benchmarks.record import append_rows, hardware, read_rows
from negcache.run.evaluation import Evaluation

NAME, QUERIES = "equal_footing", 1000
TUNING, SEEDS = 0.5, (0, 1, 2)


class Place(NamedTuple):
    """Where methods are compared.

    Args:
        regime: which tower.
        task: by name.
        seconds: of the CPU, for each run on test.
    """

    regime: str
    task: str
    seconds: float

    @property
    def kind(self) -> Regime:
        """The regime itself."""
        return REGIMES[self.regime]


class Trial(NamedTuple):
    """What a run is besides its method.

    Args:
        part: "trial" on dev, or "test".
        rate: of Adam.
        which: of the method's two settings.
        seed: of the run.
    """

    part: str
    rate: float
    which: int
    seed: int


def compared(place: Place, methods: Iterable[str]) -> None:
    """All runs of these methods that are not in the results yet, in turns; and the floor."""
    regime = place.kind
    problem = regime.problem(place.task)
    fitting = [m for m in methods if not regime.left_out(m, len(problem.items))]
    for rate, which in product(regime.rates, (0, 1)):
        _run(place, problem, dict.fromkeys(fitting, Trial("trial", rate, which, 0)))
    best = {method: _chosen(place, method) for method in fitting}
    for seed in SEEDS:
        _run(place, problem, {m: Trial("test", *best[m], seed) for m in fitting})
    if not any(r["part"] == "floor" for r in rows_of(place)):
        name, find = regime.floor
        found = _measures(find(problem, QUERIES), with_ranks=True)
        append_rows(NAME, [_row(place, name, Trial("floor", 0.0, 0, 0), found, (0, 0))])


def rows_of(place: Place) -> list[dict[str, str]]:
    """The results so far."""
    return [r for r in read_rows(NAME) if place_of(r) == place]


def place_of(row: dict[str, str]) -> Place:
    return Place(row["regime"], row["task"], float(row["seconds"]))


def _chosen(place: Place, method: str) -> tuple[float, int]:
    """Rate and setting, by dev."""
    trials = [r for r in rows_of(place) if (r["part"], r["method"]) == ("trial", method)]
    best = max(trials, key=lambda r: float(r["mrr10"]))
    return float(best["rate"]), int(best["which"])


def _run(place: Place, problem: Any, trials: dict[str, Trial]) -> None:
    """One run of each method, unless it is in the results."""
    done = {(r["method"], _trial_of(r)) for r in rows_of(place)}
    runners = {
        method: _runner(place, problem, method, trial)
        for method, trial in trials.items()
        if (method, trial) not in done
    }
    race(runners.values())
    rows = []
    for method, runner in runners.items():
        trial, counts = trials[method], (runner.steps, runner.objective.encoded)
        measured = runner.measured("dev" if trial.part == "trial" else "test", QUERIES)
        found = _measures(measured, with_ranks=trial.part == "test")
        rows.append(_row(place, method, trial, found, counts))
    if rows:
        append_rows(NAME, rows)


def _runner(place: Place, problem: Any, method: str, trial: Trial) -> Runner:
    allowed = place.seconds * (TUNING if trial.part == "trial" else 1.0)
    regime, contender = place.kind, place.kind.methods[method]
    return regime.runner(
        problem, contender, trial.rate, contender.settings[trial.which],
        seed=trial.seed, batch=regime.batch, allowed=allowed,
    )  # fmt: skip


def _trial_of(row: dict[str, str]) -> Trial:
    return Trial(row["part"], float(row["rate"]), int(row["which"]), int(row["seed"]))


def _measures(found: Evaluation, *, with_ranks: bool) -> dict[str, Any]:
    means = {name: round(found.means[name], 5) for name in ("mrr10", "r1", "r100")}
    values = [value for _, value in sorted(found.per_query["mrr10"].items())]
    return means | {"ranks": written(values) if with_ranks else ""}


def _row(
    place: Place, method: str, trial: Trial, found: dict[str, Any], counts: tuple[int, int]
) -> dict[str, Any]:
    row = place._asdict() | {"method": method} | trial._asdict()
    row |= dict(zip(("steps", "encoded"), counts, strict=True)) | found
    print({name: value for name, value in row.items() if name != "ranks"}, flush=True)
    return row | hardware()
