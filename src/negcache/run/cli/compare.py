"""``negcache compare``: runs of the same data side by side."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from negcache.errors import InputError, visible
from negcache.run.atomic import atomic_write, writing
from negcache.run.cli.comparing.curves import draw
from negcache.run.cli.comparing.page import render
from negcache.run.cli.comparing.report import TITLES, Report, report_on
from negcache.run.cli.comparing.runs import (
    Measured,
    evaluate_now,
    find_runs,
    is_evaluated,
    open_data,
    read_run,
)
from negcache.run.cli.comparing.significance import CONFIDENCE


def compare(folders: Sequence[Path], split: str, measure: str, out: Path | None) -> None:
    """Compare runs; prints the tables and the verdict, writes a page, pictures and figures.

    Args:
        folders: of the runs; the first is the baseline.
        split: of the judgements; a run that was not measured on it is measured now.
        measure: which differences are tested on.
        out: where the files go; None: ``comparison`` beside the first run.
    """
    out = folders[0].resolve().parent / "comparison" if out is None else out
    report = write_comparison(folders, split, measure, out)
    _show(Console(), report)
    written = f"written to {out / 'comparison.html'}, with the pictures and comparison.json"
    typer.echo(visible(written))


def write_comparison(folders: Sequence[Path], split: str, measure: str, out: Path) -> Report:
    """The page, pictures and figures, without a word."""
    if measure not in TITLES:
        raise InputError(f"a measure: {', '.join(TITLES)}", repr(measure), "name one of them")
    if out.exists() and not out.is_dir():
        raise InputError("a folder to write to", f"a file {out}", "choose another --out")
    found = find_runs(folders)
    task = open_data(found, split)
    for run in found:
        if not is_evaluated(run, split):
            told = f"{run.folder}: measuring split {split} at step {run.measured}"
            typer.echo(visible(told), err=True)
            evaluate_now(run, split)
    runs = [read_run(run, task, split) for run in found]
    report = report_on(runs, split, measure)
    _write(out, report, runs)
    return report


def _write(out: Path, report: Report, runs: Sequence[Measured]) -> None:
    """All files, each whole, once all of them are made."""
    pictures = _pictures(runs, report.measure)
    page = render(report, dict(pictures.values()))
    means = {run.name: {"folder": str(run.found.folder), **run.means} for run in runs}
    figures = asdict(report) | {"means": means}
    files = {f"{name}.png": picture for name, (_, picture) in pictures.items()} | {
        "comparison.html": page.encode(),
        "comparison.json": (json.dumps(figures, indent=2) + "\n").encode(),
    }
    with writing(out), ExitStack() as stack:
        for name, content in files.items():
            stack.enter_context(atomic_write(out / name)).write_bytes(content)


def _pictures(runs: Sequence[Measured], measure: str) -> Mapping[str, tuple[str, bytes]]:
    """Caption and PNG by name: the dev measure where there is one, and the training loss."""
    dev = [(run.name, run.history.dev.get(measure)) for run in runs]
    title, pictures = TITLES[measure], {}
    if any(curve for _, curve in dev):
        caption = f"{title} on the dev split while training."
        pictures["dev"] = caption, draw(dev, f"dev {title}")
    loss = [(run.name, run.history.loss) for run in runs]
    caption = (
        "Training loss, each under its sampler's own estimate of the partition function: levels "
        "of different samplers are not comparable, shapes are."
    )
    return pictures | {"loss": (caption, draw(loss, "training loss (nats)"))}


def _show(console: Console, report: Report) -> None:
    table = Table(title=_text(f"Split {report.split}, {report.num_queries:,} queries"))
    table.add_column("run", overflow="fold")
    for name in report.runs:
        table.add_column(_text(name), justify="right", overflow="fold")
    for label, values in report.rows:
        table.add_row(_text(label), *map(_text, values))
    console.print(table)
    against = Table(title=_text(f"{report.title} against {report.runs[0]}"))
    against.add_column("run", overflow="fold")
    for name in ("difference", f"{CONFIDENCE:.0%} interval", "p", "p (Holm)"):
        against.add_column(name, justify="right")
    for one in report.versus:
        found = one.difference
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        figures = f"{found.mean:+.4f}", interval, f"{found.p:.4f}", f"{one.adjusted:.4f}"
        against.add_row(_text(one.name), *figures)
    console.print(against)
    for sentence in report.verdict:
        console.print(f"- {visible(sentence)}", markup=False, highlight=False, soft_wrap=True)


def _text(name: str) -> Text:
    """Of whatever origin, without markup."""
    return Text(visible(name))
