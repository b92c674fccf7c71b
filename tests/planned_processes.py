"""A run that ``torchrun`` starts, to hold against a plan: ``FILE CONFIG FOLDER BYTES [KEY=X]``."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from negcache.errors import InputError
from negcache.run.cli import runs
from negcache.run.cli.planning.capacity import Capacity
from negcache.run.training import load_config
from negcache.run.training.step import train_step
from negcache.stores import DenseCache


def main(config: Path, folder: Path, least: int, *words: str) -> None:
    settings = load_config(config, words)
    with pytest.raises(InputError, match="bytes of memory"):
        runs.start(settings, folder / "run", lambda *_: Capacity(None, least - 1, 1 << 40))
    run = runs.start(settings, folder / "run", lambda *_: Capacity(None, least, 1 << 40))
    trainer, mesh = run.trainer, run.trainer.mesh
    loss_fn, optimizer = trainer.parts.loss_fn, trainer.accelerator
    loss_fn.fill_cache()
    loss_fn.report()
    numbers = torch.arange(settings.batch_size)[mesh.part(settings.batch_size)]
    batches, before = [trainer.parts.data.batch(numbers)], mesh.sent
    (report,) = train_step(trainer.parts, trainer.model, batches, optimizer, 1).reports
    store = loss_fn.store
    assert isinstance(store, DenseCache)
    table = store.table
    found = {
        "cache": table.embeddings.nbytes + table.written.nbytes,
        "sent": mesh.sent - before,
        "items_grad": report.encoded_grad,
        "items_nograd": report.encoded_nograd,
    }
    (folder / f"{mesh.rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
