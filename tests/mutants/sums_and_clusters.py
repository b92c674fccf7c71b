"""Faults of kernel sums and of clusters: what is excluded there, and the chances that are told."""

from tests.mutants.mutant import Mutant, laws

CHANCES = "tests/ops/test_cluster_exclusion.py::test_chances_and_masses_are_those_of_brute_force"
CHANCES_COMPILED = "tests/ops/test_cpu_chances.py"
UNIFORMS = "tests/ops/test_cluster_exclusion.py::test_draws_are_the_law_uniform_by_uniform"
KERNEL = "tests/samplers/test_kernel.py::"
LOG_MASS = "tests/samplers/test_log_mass.py::test_leaving_items_out_takes_their_mass_and_no_more"
ON_A_TREE = f"{KERNEL}test_branches_multiply_to_the_closed_form[tree-3000]"

SUMS = [
    Mutant(
        "kernel draw without coverage",
        "samplers/kernel.py",
        "log_mass, self.store, self.store.coverage, spends",
        "log_mass, self.store, spends",
        laws("quadratic-half"),
    ),
    Mutant(
        "excluded rows have a chance by the kernel",
        "ops/kernel_law.py",
        "descent.excluded.slots[found] % BLOCK] = 0.0",
        "descent.excluded.slots[found] % BLOCK] *= 1.0",
        f"{KERNEL}test_branches_multiply_to_the_closed_form[flat-300]",
    ),
    Mutant(
        "unwritten rows have a chance by the kernel",
        "ops/kernel_law.py",
        "rows.valid[inside] & (slots < rows.num_rows)",
        "slots < rows.num_rows",
        laws("quadratic-gaps"),
    ),
    Mutant(
        "the last block goes on after the last row",
        "ops/kernel_law.py",
        "rows.valid[inside] & (slots < rows.num_rows)",
        "rows.valid[inside]",
        f"{KERNEL}test_branches_multiply_to_the_closed_form[flat-300]",
    ),
    Mutant(
        "what is excluded stays in the nodes above it",
        "ops/kernel_law.py",
        "where, excluded.mass[found], excluded.smallest",
        "where, 0 * excluded.mass[found], excluded.smallest",
        ON_A_TREE,
    ),
    Mutant(
        "a share of all children, not of its node's",
        "ops/kernel_law.py",
        "mass.sum(2)[:, place])\n        node = child",
        "mass.sum(2).sum(1, keepdim=True))\n        node = child",
        ON_A_TREE,
    ),
    Mutant(
        "the uppermost level is scored once more for chances",
        "samplers/kernel.py",
        "partial(_log_prob, descent, floor)",
        "partial(_log_prob, Descent.begin(rows, self.sums, self.kernel), floor)",
        "tests/samplers/test_passes.py::test_the_uppermost_sums_are_scored_once",
    ),
    Mutant(
        "excluded rows that were never written are taken away",
        "ops/descent.py",
        "kept = rows.valid[rows.exclude.ids]",
        "kept = torch.ones_like(rows.exclude.ids, dtype=torch.bool)",
        f"{LOG_MASS}[quadratic-gaps-0.5]",
    ),
    Mutant(
        "the mass at the top keeps what is excluded",
        "ops/descent.py",
        "return clipped(mass, left, place, excluded.mass, excluded.smallest)",
        "return clipped(mass, left, place, 0 * excluded.mass, excluded.smallest)",
        f"{LOG_MASS}[quadratic-drifted-0.5]",
    ),
]
"""Of draws by a kernel, and of their chances."""

CLUSTERS = [
    Mutant(
        "index draw without coverage",
        "indexes/scored_clusters.py",
        "self.law.log_norm, self.store, self.store.coverage,",
        "self.law.log_norm, self.store, 1.0,",
        laws("dynamic_index-half"),
    ),
    Mutant(
        "a cluster's mass counts its excluded members",
        "ops/cluster_draw.py",
        "partition.size[rows, columns] - gone)",
        "partition.size[rows, columns])",
        CHANCES,
    ),
    Mutant(
        "excluded members have a chance",
        "ops/cluster_draw.py",
        "nothing = self.exclude.mask(places) | (places < 0)",
        "nothing = (places < 0).expand_as(values)",
        CHANCES,
    ),
    Mutant(
        "excluded members are drawn",
        "ops/cluster_draw.py",
        "exclude.allowed(first - before + inside, num_items)",
        "first + inside",
        UNIFORMS,
    ),
    Mutant(
        "ranks count what is excluded in other clusters",
        "ops/cluster_draw.py",
        "exclude.allowed(first - before + inside, num_items)",
        "exclude.allowed(first + inside, num_items)",
        UNIFORMS,
    ),
    Mutant(
        "an item without a row has a chance",
        "ops/cluster_draw.py",
        "nothing = self.exclude.mask(places) | (places < 0)",
        "nothing = self.exclude.mask(places)",
        CHANCES,
    ),
    Mutant(
        "clusters leave items out by their ids",
        "indexes/scored_clusters.py",
        "table.places_or_none(self.store.slots(request.exclude.ids))",
        "table.places_or_none(request.exclude.ids % self.store.num_rows)",
        f"{LOG_MASS}[index-half-0.5]",
    ),
    Mutant(
        "a law of some queries excludes what others may not draw",
        "ops/cluster_draw.py",
        "ClusterLaw(self.partition.of(rows), self.exclude.of(rows))",
        "ClusterLaw(self.partition.of(rows), self.exclude.slice(0, len(rows)))",
        "tests/ops/test_cluster_exclusion.py::test_what_is_drawn_is_allowed_and_stands_where_it_is",
    ),
    Mutant(
        "an envelope without the radius",
        "ops/cluster_draw.py",
        "values=self.values + lipschitz[:, None] * self.radius",
        "values=self.values + 0 * lipschitz[:, None] * self.radius",
        "tests/ops/test_cluster_draw.py::test_flat_rejection_is_exact",
    ),
]
"""Of draws by clusters, and of their chances."""

CELLS = [
    Mutant(
        "the last of a cluster take any places that are left",
        "indexes/cells.py",
        "self._write(moving, where, holes[order])",
        "self._write(moving, where, holes)",
        "tests/indexes/test_cells.py",
    ),
    Mutant(
        "a state of clusters forgets the order of their members",
        "indexes/cells.py",
        "members = self.members.to(self.labels.dtype)",
        "members = self.labels.argsort(stable=True)[int((self.labels < 0).sum()) :]",
        "tests/indexes/test_clusters.py::test_a_resumed_index_goes_on_as_if_it_had_never_stopped",
    ),
    Mutant(
        "a table of clusters answers after members have moved",
        "indexes/cluster_table.py",
        "if self.changes != self.cells.changes:",
        "if self.changes < 0:",
        "tests/indexes/test_clusters.py::test_items_that_move_come_or_go_change_clusters",
    ),
    Mutant(
        "centres of a stream stay until it is full",
        "indexes/clusters.py",
        "elif self.moved >= self.built:",
        "elif self.moved >= store.num_rows:",
        "tests/indexes/test_clusters.py::test_a_stream_begins_with_no_clusters_and_they_grow_with_it",
    ),
    Mutant(
        "points that end far off do not look at all centres",
        "ops/near.py",
        "lost = start < 0 if usual is None else (start < 0) | (away > usual[labels])",
        "lost = start < 0",
        "tests/ops/test_near.py",
    ),
]
"""Of what keeps clusters up to date."""

EXPECTED = [
    Mutant(
        "clusters of which some members are excluded count twice",
        "ops/cluster_expected.py",
        "table.masses[less.where] = 0.0",
        "table.masses[less.where] *= 1.0",
        "tests/ops/test_cluster_expected.py",
    ),
    Mutant(
        "what cancels is not worked out anew",
        "ops/cluster_expected.py",
        "LOST = 1e-6",
        "LOST = 0.0",
        "tests/ops/test_cluster_expected.py",
    ),
    Mutant(
        "a pool's rows are expected of queries that may not draw them",
        "ops/mass_table.py",
        "of.columns[lo:hi]] = of.instead[lo:hi]",
        "of.columns[lo:hi]] += 0.0",
        "tests/ops/test_pool_draw.py",
    ),
    Mutant(
        "compiled code expects items of queries that may not draw some of their cluster",
        "compiled/chances.py",
        "row[of.columns[pair]] = np.float32(0.0)",
        "row[of.columns[pair]] *= np.float32(1.0)",
        CHANCES_COMPILED,
    ),
    Mutant(
        "compiled code gives what has no mass a chance",
        "compiled/chances.py",
        "np.float32(0.0) if exponent < SMALLEST else power_of_two(exponent)",
        "power_of_two(exponent)",
        CHANCES_COMPILED,
    ),
    Mutant(
        "compiled code counts what is gone before the cluster",
        "compiled/members.py",
        "np.searchsorted(own, first), np.searchsorted(own, first + size)",
        "0, np.searchsorted(own, first + size)",
        CHANCES_COMPILED,
    ),
    Mutant(
        "what is left of a uniform begins at the first block",
        "ops/mass_table.py",
        "(uniforms * self.total[:, None] - before) / (after - before)",
        "uniforms * self.total[:, None] / after",
        "tests/ops/test_cluster_expected.py tests/indexes/test_held_clusters.py "
        "tests/samplers/test_same_draws.py::test_draws_are_the_same[shared_dynamic_index]",
    ),
]
"""Of tables of masses, and how often items are expected of them."""

MUTANTS = [*SUMS, *CLUSTERS, *CELLS, *EXPECTED]
