"""``negcache``: plan, train, resume, evaluate, compare, diagnose, search, export, data, demo."""

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from negcache.errors import InputError
from negcache.run.cli.clean_errors import CleanErrors
from negcache.run.cli.ending import RANK_COUNT, say, say_shorter, stopped, train_to_the_end

app = typer.Typer(cls=CleanErrors, no_args_is_help=True, add_completion=False, help=__doc__)


def _show_version(wanted: bool) -> bool:
    if wanted:
        say(f"negcache {version('negcache')}")
        raise typer.Exit
    return wanted


@app.callback()
def begin(
    version: Annotated[
        bool,
        typer.Option("--version", help="Which version this is.", callback=_show_version),
    ] = False,
) -> None:
    """Softmax training over very large item sets."""


RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="best|newest|STEP",
        help="Which checkpoint; default the best where save_best kept one, else the newest.",
    ),
]


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="New run folder; default runs/CONFIG.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse faulty data; the same as data.strict=true.")
    ] = False,
) -> None:
    """Train a retriever as a config says, into a new run folder."""
    from negcache.run.cli.runs import start_or_go_on
    from negcache.run.training import load_config

    settings = load_config(config, [*(set_ or ()), *(["data.strict=true"] if strict else [])])
    with start_or_go_on(settings, out or Path("runs") / config.stem) as run:
        train_to_the_end(run)


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key.")
    ] = None,
    world_size: Annotated[
        int, typer.Option(metavar="K", min=1, help="Processes; figures are those of each.")
    ] = 1,
) -> None:
    """What a run will take: bytes by part, encodings and flops a step; refuses what cannot fit."""
    from negcache.run.cli.plan import plan
    from negcache.run.training import load_config

    plan(load_config(config, set_ or ()), Path("runs") / config.stem, world_size)


@app.command()
def resume(
    run: RunFolder,
    fall_back: Annotated[
        bool,
        typer.Option(
            "--fall-back", help="Where the newest checkpoint is damaged, go on from the one before."
        ),
    ] = False,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Train to this step instead.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Train for so many seconds in all instead.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", hidden=True)] = None,
) -> None:
    """Go on with a run that was stopped or killed, as if it had never been, or lengthen it."""
    from negcache.run.cli.runs import read_config, reopen

    if set_:
        raise InputError(
            "resume with --steps or --max-seconds: all else of a run stays what it was",
            f"--set {set_[0][:200]}",
            f"train anew: negcache train CONFIG --set {set_[0][:200]} --out ANOTHER_RUN",
        )
    planned = read_config(run).steps
    told = {"steps": steps, "max_seconds": max_seconds}
    changes = {key: value for key, value in told.items() if value is not None}
    with reopen(run, fall_back=fall_back, changes=changes) as opened:
        say_shorter(planned, opened)
        train_to_the_end(opened)


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    checkpoint: Checkpoint = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to write to; default RUN/evaluation."),
    ] = None,
) -> None:
    """Measure a run by exact search; writes the measures and a TREC run file."""
    from negcache.run.atomic import check_writable
    from negcache.run.cli.evaluating import EVALUATION, evaluate_run, told
    from negcache.run.cli.runs import trained

    with trained(run, checkpoint, reads_only=out is not None) as opened:
        home = out or run / EVALUATION
        check_writable(home)
        for line in told(opened, split, evaluate_run(opened, split, home)):
            say(line)
        say(f"written to {home / split}.json and .trec")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs; first the baseline.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default comparison/ beside the first.")
    ] = None,
    measure: Annotated[str, typer.Option(help="What the differences are tested on.")] = "mrr10",
) -> None:
    """Compare runs of the same data: a table, a paired test over queries, learning curves."""
    from negcache.run.cli.compare import compare

    compare(runs, split, measure, out)


@app.command()
def diagnose(
    run: RunFolder,
    *,
    sampler: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another sampler to measure beside.")
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 256,
    items: Annotated[int | None, typer.Option(min=1, help="That stand for all.")] = None,
    repeats: Annotated[int, typer.Option(min=4, help="Draws for each batch of them.")] = 16,
    split: Annotated[str, typer.Option(help="Whose.")] = "train",
    checkpoint: Checkpoint = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write; default RUN/diagnosis.")
    ] = None,
) -> None:
    """How good a run's negatives are: its gradient against the exact softmax over all items."""
    from negcache.run.cli.diagnose import Looking, look_at

    look_at(run, Looking(sampler, split, queries, repeats, items, checkpoint), out)


@app.command()
def search(
    run: RunFolder,
    text: Annotated[
        str | None, typer.Argument(help="What to look for; asked for if absent.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items to show.")] = 10,
    checkpoint: Checkpoint = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the encoded corpus; default RUN/index."),
    ] = None,
) -> None:
    """Search the corpus of a run for a text, or for what you type."""
    from negcache.run.cli.runs import trained
    from negcache.run.cli.searching import check_text, open_searcher, prompt, show

    if text is not None:
        check_text(text)
    console = Console()
    with open_searcher(trained(run, checkpoint, locked=False), out) as searcher:
        if text is None:
            prompt(console, searcher, k, "Type a query.")
        else:
            show(console, searcher, text, k)


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    checkpoint: Checkpoint = None,
) -> None:
    """Write the trained towers as folders that sentence-transformers loads."""
    from negcache.run.cli.export import check_out, export_run
    from negcache.run.cli.runs import trained

    check_out(out)
    with trained(run, checkpoint, reads_only=True) as opened:
        folders = export_run(opened, out)
    for folder in folders:
        say(f'written; to use it: SentenceTransformer("{folder}")')


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="wordnet-sense or wordnet-reverse.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Write a task that comes with negcache as a BEIR folder."""
    from negcache.run.data import write_beir

    write_beir(name, out)
    say(f"{name} written to {out}")


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder of its runs.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each method.")] = 600,
) -> None:
    """The main job on real data: three kinds of negatives over 117,659 items, compared."""
    from negcache.run.cli.demo import run_demo

    stopped(run_demo(out, steps), "negcache demo" + (f" --out {out}" if out else ""))


def _show_warning(message: Warning | str, *_: object) -> None:
    """A warning is one line, without the place in our code."""
    say(f"Warning: {message}", err=True)


def main() -> None:
    """Entry point of the ``negcache`` command."""
    warnings.showwarning = _show_warning
    try:
        app()
    except SystemExit as end:
        if not end.code and RANK_COUNT > 1:
            _part()
        raise


def _part() -> None:
    """Processes that met part before they end: torch aborts some that do not."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
