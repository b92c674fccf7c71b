"""``python -m benchmarks.datasets NAME OUT``: fetch a data set and write its folder."""

import typer

from benchmarks.datasets.catalogue import WRITERS
from negcache.run.cli.app import CleanErrors

app = typer.Typer(
    cls=CleanErrors,
    no_args_is_help=True,
    add_completion=False,
    help=__doc__,
    result_callback=lambda out: typer.echo(f"written to {out}"),
)
for name, write in WRITERS.items():
    app.command(name)(write)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks.datasets")
