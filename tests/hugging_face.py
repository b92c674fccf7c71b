"""A stock Trainer of Hugging Face over the two text towers; as a program, one that is killed."""

import os
import signal
import sys

import torch
from datasets import Dataset
from text_towers import ROWS, B, build
from transformers import Trainer, TrainingArguments, default_data_collator

STEPS = 12


def arguments(folder, **settings):
    """Nothing but what tests need: a CPU, no reports, a constant rate as in the plain loop."""
    settings = {
        "max_steps": STEPS, "per_device_train_batch_size": B, "learning_rate": 1e-2,
        "lr_scheduler_type": "constant", "use_cpu": True, "report_to": "none",
        "disable_tqdm": True, "save_steps": 4, "logging_steps": 1,
    } | settings  # fmt: skip
    return TrainingArguments(str(folder), **settings)


def trainer_of(model, folder, *, collate=default_data_collator, **settings):
    """The three lines of the docs."""
    trainer = Trainer(
        model, arguments(folder, **settings), data_collator=collate,
        train_dataset=Dataset.from_list(ROWS), eval_dataset=Dataset.from_list(ROWS[:20]),
    )  # fmt: skip
    model.loss_fn.step_with(trainer.create_optimizer())
    return trainer


class Killer:
    """A collator in whose hands the process dies, at a batch of this number."""

    def __init__(self, number):
        self.left = number

    def __call__(self, rows):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return default_data_collator(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer_of(build(), sys.argv[1], collate=Killer(8)).train()
