"""``negcache evaluate``: a run is measured, and what was found is kept in its folder."""

import json
from collections.abc import Iterator
from pathlib import Path

from negcache.run.atomic import atomic_write, writing
from negcache.run.cli.runs import Run
from negcache.run.evaluation import Evaluation, write_run
from negcache.run.together import on_first

EVALUATION = "evaluation"
"""In the folder of a run: what was found."""


def evaluate_run(run: Run, split: str, out: Path | None = None) -> Evaluation:
    """Measure a split; writes ``SPLIT.trec``, a TREC run file, then ``SPLIT.json``.

    Args:
        run: of which the towers are trained.
        split: of its task.
        out: the folder to write to; None: ``evaluation`` in that of the run.
    """
    result = run.retriever.evaluate(split)
    out = run.folder / EVALUATION if out is None else out

    def write() -> None:
        with writing(out):
            write_run(out / f"{split}.trec", result.ranking)
            values = {"step": run.trainer.step, "split": split, **result.means}
            with atomic_write(out / f"{split}.json") as part:
                part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    on_first(run.trainer.mesh, write)
    return result


def told(run: Run, split: str, result: Evaluation) -> Iterator[str]:
    """What was measured: the split, of how many queries, which checkpoint; then the measures."""
    queries, items = len(result.ranking.query_names), len(run.retriever.items)
    yield f"split {split}: {queries:,} queries over all {items:,} items; {_which(run)}"
    for name, value in result.means.items():
        yield f"{name:8}{value:.4f}"


def _which(run: Run) -> str:
    step, kept = run.trainer.step, run.trainer.checkpoints
    if step == kept.best():
        return f"checkpoint of step {step}, the best by {run.config.save_best} of dev"
    return f"checkpoint of step {step}{', the newest' * (step == kept.newest)}"
