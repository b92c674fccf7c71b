"""Faults of classes that are dealt out among processes."""

from tests.mutants.mutant import Mutant

DEALT_OUT = "tests/losses/test_dealt_out_classes.py::"
DEALT_OUT_SETTINGS = "tests/losses/test_dealt_out_settings.py"


def classes(case: str) -> str:
    """Two processes train what one trains."""
    return f"{DEALT_OUT}test_several_processes_are_one[2-{case}]"


MUTANTS = [
    Mutant(
        "gradients of classes count once for each process",
        "class_step.py",
        "partial(torch.mul, 1 / shard.mesh.size)",
        "partial(torch.mul, 1.0)",
        classes("default"),
    ),
    Mutant(
        "gradients of classes stay with the process that found them",
        "class_step.py",
        "return check_finite(shard.mesh.gather(rows, counts), ids)",
        "every = list(shard.mesh.gather(rows.detach(), counts).split(counts)); "
        "every[shard.mesh.rank] = rows; return check_finite(torch.cat(every), ids)",
        classes("default"),
    ),
    Mutant(
        "sums are not told of classes that were looked up",
        "class_step.py",
        "table.write(items.ids, items.rows)",
        "pass",
        classes("sparse"),
    ),
    Mutant(
        "sums are told of the classes of others as of their own",
        "stores/live.py",
        "slots = slots if slots is ids else slots[slots >= 0]",
        "slots = slots.clamp_min(0)",
        classes("sparse"),
    ),
    Mutant(
        "targets of the other processes' rows are forgotten",
        "messages.py",
        "exclude=self.exclude.gathered(mesh, entries, rows),",
        "exclude=(lambda every: Exclusion.from_pairs(every.rows[every.rows < rows[0]], "
        "every.ids[every.rows < rows[0]], sum(rows)))"
        "(self.exclude.gathered(mesh, entries, rows)),",
        classes("shared_cached"),
    ),
    Mutant(
        "the padding has the number here that it has in the table",
        "class_step.py",
        "padding = row_here(shard, self.padding_idx)",
        "padding = self.padding_idx if (self.padding_idx or 0) < shard.size else None",
        classes("padded_full"),
    ),
    Mutant(
        "DDP averages the classes",
        "distributed.py",
        "if not isinstance(parent, DistributedDataParallel):",
        "if True:",
        classes("default"),
    ),
    Mutant(
        "each process begins with draws of its own rows alone",
        "class_vectors.py",
        "for start in range(0, shard.total, step):",
        "for start in range(shard.first, shard.first + shard.size, step):",
        classes("default"),
    ),
    Mutant(
        "an evaluation over the classes here",
        "exact.py",
        "log_z = Masses(mesh, log_z).log_total",
        "pass",
        classes("default"),
    ),
    Mutant(
        "the best of the classes here",
        "exact.py",
        "parts.append(best_of_all(mesh, table.ids(slots), scores, k))",
        "parts.append(best_of_all(mesh, slots, scores, k))",
        classes("default"),
    ),
    Mutant(
        "every process takes the first rows of a whole table",
        "class_vectors.py",
        "state[key] = state[key][shard.bounds]",
        "state[key] = state[key][: shard.size]",
        DEALT_OUT_SETTINGS,
    ),
    Mutant(
        "the norm of the gradients here",
        "clipping.py",
        "squares[1] = mesh.total(squares[1].to(mesh.device)).cpu()",
        "pass",
        DEALT_OUT_SETTINGS,
    ),
    Mutant(
        "weights that have parted are not seen",
        "meeting.py",
        "len({*weights} - {0}) > 1",
        "False",
        DEALT_OUT_SETTINGS,
    ),
    Mutant(
        "what a process refuses is not told",
        "meeting.py",
        "        if not found.held:\n            found.tell(CALLS[0])\n",
        "",
        DEALT_OUT_SETTINGS,
    ),
]
