"""Run folders: made once, reopened as often as wanted."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.run.atomic import atomic_write, forget_interrupted, writing
from negcache.run.cli.build import build
from negcache.run.cli.planning.capacity import Capacity, capacity_here, check_fits
from negcache.run.cli.planning.memory import memory_parts
from negcache.run.cli.planning.planned_run import planned_run
from negcache.run.cli.retriever import Retriever
from negcache.run.cli.sources import Source, open_source
from negcache.run.cli.towers import Towers
from negcache.run.cli.whole_paths import with_whole_paths
from negcache.run.formats import check_format
from negcache.run.lock import RunLock
from negcache.run.together import check_alike, on_first
from negcache.run.training import Checkpoints, Config, Trainer
from negcache.run.training.config import parse_config
from negcache.run.training.config_tables import SamplerConfig
from negcache.run.training.trainer import make_accelerator

ROWS = Path("cache") / "rows"
"""In the folder of a run with ``cache.on_disk``; what can be undone is beside it."""

CONFIG, FORMAT = "config.json", 1
"""In the folder of a run: the format of the folder, which version made it, and its config."""

WITHOUT_CACHE = {"sampler": SamplerConfig(name="in_batch")}
"""Keys of a run whose towers alone are wanted."""


@dataclass(frozen=True)
class Run:
    """A run folder with everything in it alive; no other process works on it until it is left."""

    folder: Path
    config: Config
    source: Source
    trainer: Trainer
    towers: Towers
    evaluation: Retriever | None
    held: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    @property
    def retriever(self) -> Retriever:
        """The towers over the task that measures them.

        Raises:
            InputError: the run has none.
        """
        if self.evaluation is None:
            raise InputError(
                "a run with an evaluation task, whose corpus is searched",
                f"data.pairs alone in {self.folder}",
                "train with data.source beside data.pairs; export needs no task",
            )
        return self.evaluation


def start(
    config: Config, folder: Path, capacity: Callable[[torch.device, Path], Capacity] = capacity_here
) -> Run:
    """Make a new run folder; everything is checked before it exists.

    Args:
        config: of the run.
        folder: to be made.
        capacity: says how much memory and disk there is; what cannot fit is not begun.
    """
    accelerator, mesh = _meet(config), Mesh.now()
    on_first(mesh, partial(_check_new, folder))
    config = with_whole_paths(config)
    source = _source(config, folder)
    planned = planned_run(config, source.facts(), accelerator.device, mesh.size)
    check_fits(memory_parts(planned), capacity(accelerator.device, folder))
    on_first(mesh, partial(_make, folder, config, source))
    with _held(folder, mesh) as held:
        try:
            run = _open(config, folder, accelerator, source)
        except BaseException:  # what has not begun leaves nothing behind
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return replace(run, held=held.pop_all())


def start_or_go_on(config: Config, folder: Path) -> Run:
    """As ``start``; a launcher that starts all processes anew goes on from the newest checkpoint.

    ``torchrun`` says how often it has done so.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) and folder.exists():
        return reopen(folder)
    return start(config, folder)


def _check_new(folder: Path) -> None:
    if folder.exists():
        raise InputError(
            "a run folder that does not exist yet",
            f"{folder}",
            f"choose another --out, or go on with it: negcache resume {folder}",
        )


def _make(folder: Path, config: Config, source: Source) -> None:
    forget_interrupted(folder)
    with writing(folder):
        try:
            with atomic_write(folder, exclusive=True) as part:
                part.mkdir()
                if config.cache.on_disk:
                    (part / ROWS).parent.mkdir()
                _write_config(part, config)
                source.save(part)
        except FileExistsError:  # another process was faster
            _check_new(folder)


def _write_config(folder: Path, config: Config) -> None:
    told = {"format": FORMAT, "negcache": version("negcache")} | config.model_dump()
    with writing(folder / CONFIG), atomic_write(folder / CONFIG) as part:
        part.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _held(folder: Path, mesh: Mesh, *, reads_only: bool = False) -> ExitStack:
    """Have the run, one process for all; until what is returned is closed."""
    held = ExitStack()

    def hold() -> None:
        held.callback(RunLock(folder, reads_only=reads_only).release)

    on_first(mesh, hold)
    return held


def reopen(
    folder: Path, *, fall_back: bool = False, changes: Mapping[str, Any] | None = None
) -> Run:
    """A run as its newest checkpoint left it; as it began, where there is none yet.

    Args:
        folder: of the run.
        fall_back: take the checkpoint before, where the newest is damaged.
        changes: of its config, by key; kept there where they may be made.
    """
    kept = read_config(folder)
    config = parse_config(kept.model_dump() | dict(changes or {}))
    accelerator = _meet(config)
    with _held(folder, Mesh.now()) as held:
        run = _open(config, folder, accelerator, _source(config, folder))
        run.trainer.restore(fall_back=fall_back)
        if config != kept:
            on_first(run.trainer.mesh, partial(_write_config, folder, config))
        return replace(run, held=held.pop_all())


def read_config(folder: Path) -> Config:
    """The config that a run was started with."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError("a run folder with config.json", f"{folder}", "check the path")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"JSON in {path}", str(error), "restore the file") from error
    values = values if isinstance(values, dict) else {}
    check_format(values.pop("format", None), FORMAT, path)
    values.pop("negcache", None)
    return parse_config(values)


def trained(
    folder: Path,
    checkpoint: str | None = None,
    *,
    locked: bool = True,
    reads_only: bool = False,
    whole: bool = False,
) -> Run:
    """The towers of a run as one of its checkpoints has them, to be used; it has no cache.

    Args:
        folder: of the run.
        checkpoint: "best", "newest" or a step; None: the best where there is one, else the newest.
        locked: no other process may work on it meanwhile.
        reads_only: nothing will be written there.
        whole: with its cache and all else; rows in files are a copy of them, since to lead them
            back to a checkpoint writes them over.
    """
    config = read_config(folder)
    accelerator, mesh = _meet(config), Mesh.now()
    with _held(folder, mesh, reads_only=reads_only) if locked else ExitStack() as held:
        step = on_first(mesh, partial(Checkpoints(folder / "checkpoints").choose, checkpoint))
        rows = held.enter_context(_copied_rows(folder)) if whole and config.cache.on_disk else None
        run = _open(config, folder, accelerator, _source(config, folder), goes_on=whole, rows=rows)
        run.trainer.restore_step(step, whole=whole)
        return replace(run, held=held.pop_all())


@contextmanager
def _copied_rows(folder: Path) -> Iterator[Path]:
    """The file of a run's rows, with what leads it back, beside other temporary files."""
    with TemporaryDirectory(prefix="negcache-") as place:
        copied = Path(place) / ROWS
        with writing(copied):
            _check_rows(folder)
            copied.parent.mkdir()
            for path in (folder / ROWS).parent.iterdir():
                shutil.copyfile(path, copied.parent / path.name)
        yield copied


def _check_rows(folder: Path) -> None:
    if not (folder / ROWS).parent.is_dir():
        raise InputError(
            f"the rows of the run in {(folder / ROWS).parent}",
            "no such folder",
            "copy the whole folder of a run: with cache.on_disk its checkpoints have no rows",
        )


def _meet(config: Config) -> Accelerator:
    """Wait for the other processes that a launcher has started; all must be alike."""
    accelerator, mesh = make_accelerator(config), Mesh.now()
    keys = {f"config of {key}": value for key, value in config.model_dump().items()}
    check_alike(mesh, negcache=version("negcache"), torch=torch.__version__, **keys)
    return accelerator


def _source(config: Config, folder: Path) -> Source:
    """The data, the same for all processes."""
    source = open_source(config, folder)
    check_alike(Mesh.now(), **{f"data of {k}": v for k, v in source.fingerprints.items()})
    return source


def _open(
    config: Config,
    folder: Path,
    accelerator: Accelerator,
    source: Source,
    *,
    goes_on: bool = True,
    rows: Path | None = None,
) -> Run:
    """Everything of a run; of one that does not go on no cache, which takes room and is not asked.

    Rows in files, moreover, are those of one checkpoint at a time; ``rows`` is another place.
    """
    if rows is None and goes_on and config.cache.on_disk:
        _check_rows(folder)
        rows = folder / ROWS
    built = config if goes_on else config.model_copy(update=WITHOUT_CACHE)
    parts, towers, retriever = build(built, source, accelerator, rows, trains=goes_on)
    trainer = Trainer(config, parts, folder, accelerator)
    return Run(folder, config, source, trainer, towers, retriever)
