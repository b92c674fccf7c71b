"""Faults of a low-rank cache, of a floor and of mining, among several processes."""

from tests.mutants.mutant import Mutant
from tests.mutants.processes import SETTINGS, one

BY_HAND = f"{SETTINGS}test_a_low_rank_cache_of_several_is_one[coordinates]"
FLOOR = f"{SETTINGS}test_a_floor_of_several_processes_has_the_law_of_one[floor]"
SHARDS = "tests/ops/test_shards.py::"
GREW = f"{SHARDS}test_a_table_that_grew_takes_parts_that_lay_elsewhere[2]"

LOW_RANK = [
    Mutant(
        "places are counted from the first row here",
        "ops/shards.py",
        ".to(ids.device) - sum(sizes[: mesh.rank])",
        ".to(ids.device)",
        one("low_shared_cached"),
    ),
    Mutant(
        "coordinates of the others' items are those of row 0",
        "stores/low_rank.py",
        "mesh.from_owners(self.rows(slots.clamp_min(0)), (slots >= 0)[:, None])",
        "self.rows(slots.clamp_min(0))",
        one("low_shared_cached"),
    ),
    Mutant(
        "rows of others are written as if they were here",
        "stores/low_rank.py",
        "new = (slots >= 0) & ~(self.valid | self.table.removed)[slots]",
        "new = ~(self.valid | self.table.removed)[slots]",
        BY_HAND,
    ),
    Mutant(
        "every process encodes all that is waited for",
        "stores/gathered.py",
        "return left[mesh.part(len(left))]",
        "return left",
        BY_HAND,
    ),
    Mutant(
        "fresh rows stay with the process that encoded them",
        "stores/gathered.py",
        "ids, rows = mesh.gather(ids[wanted], sizes), mesh.gather(rows[wanted], sizes)",
        "ids, rows = ids[wanted], rows[wanted]",
        BY_HAND,
    ),
    Mutant(
        "an item leaves the process alone that names it",
        "stores/low_rank.py",
        "ids = self._named(ids)\n        slots, removed",
        "slots, removed",
        BY_HAND,
    ),
    Mutant(
        "all processes map one file",
        "stores/row_file.py",
        "return path if alone else",
        "return path if True else",
        BY_HAND,
    ),
    Mutant(
        "of a part that lies with two, neither reads anything",
        "ops/shards.py",
        "return range(max(start, self.first), min(stop, self.first + self.size))",
        "return range(start, stop if self.first <= start and stop <= self.first + self.size "
        "else start)",
        GREW,
    ),
    Mutant(
        "what projection left of a part counts twice",
        "stores/coordinate_table.py",
        "if rows.start == whole.start:",
        "if True:",
        GREW,
    ),
    Mutant(
        "the smallest of the numbers drawn",
        "ops/uniform.py",
        "found[torch.randperm(len(found), generator=generator)[:count]].sort().values",
        "found[:count]",
        f"{SHARDS}test_distinct_numbers_are_as_many_as_asked_for_and_uniform[13-3]",
    ),
]

FLOORS = [
    Mutant(
        "a floor over the rows here",
        "samplers/kernel.py",
        "masses.mesh.total(allowed).clamp_min(1.0)",
        "allowed.clamp_min(1.0)",
        FLOOR,
    ),
    Mutant(
        "the kernel has as much mass on every process",
        "samplers/kernel.py",
        "(1 - floor) * masses.log_share.double().exp()",
        "(1 - floor) * torch.ones_like(uniform)",
        FLOOR,
    ),
]

MINED = [
    Mutant(
        "the nearest clusters of each process",
        "ops/cluster_draw.py",
        "best_of_all(mesh, mine.indices",
        "best_of_all(ALONE, mine.indices",
        f"{SETTINGS}test_the_nearest_clusters_are_those_of_all_processes[mined]",
    ),
]

MUTANTS = [*LOW_RANK, *FLOORS, *MINED]
