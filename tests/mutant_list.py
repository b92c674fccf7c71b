"""The faults of ``mutants.py``: what is put in whose place, and which tests must see it."""

from typing import NamedTuple

LAWS = "tests/samplers/test_roster.py::test_laws"
FORMS = "tests/samplers/test_roster.py::test_both_forms_of_a_draw_agree"


class Mutant(NamedTuple):
    """One fault: ``old`` becomes ``new`` in ``file``, and one of the ``tests`` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant(
        "membership by score",
        "cache/subset.py",
        "self.written[slots[kept]] = self.clock",
        "self.written[slots[kept]] = self.entered[slots[kept]] = self.clock",
        "tests/cache/test_subset.py::test_rows_leave_in_the_order_they_entered_whatever_is_written",
    ),
    Mutant(
        "paired scores lose the power",
        "score.py",
        "self.score.paired(queries, items) * self.power",
        "self.score.paired(queries, items)",
        f"{LAWS}[flat-large]",
    ),
    Mutant(
        "unwritten rows in gathered cells",
        "functional/two_stage.py",
        "(slots >= rows.num_rows) | ~rows.valid[inside]",
        "slots >= rows.num_rows",
        f"{LAWS}[cached-large_gaps]",
    ),
    Mutant(
        "distinct weight without coverage",
        "samplers/distinct.py",
        "log_share - log_prob + log_stands",
        "log_share - log_prob",
        f"{LAWS}[distinct-half]",
    ),
    Mutant(
        "distinct log_z without coverage",
        "samplers/distinct.py",
        "log_norm + log_stands",
        "log_norm",
        f"{FORMS}[distinct-half]",
    ),
    Mutant(
        "head and tail weight without coverage",
        "samplers/head_tail.py",
        "(logits - log_norm[:, None]) + log_stands",
        "(logits - log_norm[:, None])",
        f"{LAWS}[head_tail-half]",
    ),
    Mutant(
        "head and tail log_z without coverage",
        "samplers/head_tail.py",
        "log_norm + log_stands if",
        "log_norm if",
        f"{FORMS}[head_tail-half]",
    ),
    Mutant(
        "joined pool without coverage",
        "samplers/shared.py",
        "log_pi > -torch.inf, log_expected + coverage",
        "log_pi > -torch.inf, log_expected",
        "tests/functional/test_identities.py::"
        "test_items_that_only_a_partial_cache_reaches_count_in_a_joined_pool",
    ),
    Mutant(
        "joined pool counts masked hits",
        "samplers/shared.py",
        "torch.cat([drawn[kept], request.targets])",
        "torch.cat([drawn, request.targets])",
        "tests/functional/test_identities.py::test_a_pool_counts_no_masked_hit[True]",
    ),
    Mutant(
        "pool counts masked hits",
        "samplers/shared.py",
        "torch.unique(drawn[kept], return_counts",
        "torch.unique(drawn, return_counts",
        "tests/functional/test_identities.py::test_a_pool_counts_no_masked_hit[False]",
    ),
    Mutant(
        "uniform tail draws unwritten rows",
        "samplers/stale_ann.py",
        "(left == 0)[:, None] | ~rows.valid[slots]",
        "(left == 0)[:, None]",
        f"{LAWS}[stale_top_k_tail-gaps]",
    ),
    Mutant(
        "a small rest taken for rounding",
        "functional/rest.py",
        "tiny = 8 *",
        "tiny = 8000 *",
        "tests/functional/test_rest.py::test_a_small_rest_counts_in_float32",
    ),
    Mutant(
        "cumulative masses in float32",
        "functional/two_stage.py",
        "(log_masses - peak).double().exp_().cumsum_(dim=1)",
        "(log_masses - peak).double().exp_().cumsum_(dim=1).float().double()",
        "tests/functional/test_two_stage.py::test_small_masses_are_not_lost_beside_a_large_one",
    ),
    Mutant(
        "excluded items not translated to slots",
        "functional/views.py",
        "request if slots is ids else replace",
        "request if True else replace",
        f"{LAWS}[cached-half]",
    ),
    Mutant(
        "an exclusion in slot 0 is lost",
        "exclusion.py",
        "kept = numbers >= 0",
        "kept = numbers > 0",
        "tests/cache/test_subset.py::test_a_positive_in_any_slot_is_excluded",
    ),
    Mutant(
        "slots given out as items",
        "samplers/cached.py",
        "use_columns(rows.ids(found.slots)",
        "use_columns(found.slots",
        f"{LAWS}[cached-half]",
    ),
    Mutant(
        "validity looked up by item",
        "samplers/cached.py",
        "~rows.valid[held]",
        "~rows.valid[ids % rows.num_rows]",
        f"{LAWS}[cached-half_gaps]",
    ),
    Mutant(
        "cached draw without coverage",
        "samplers/cached.py",
        "log_norm - math.log(rows.coverage)",
        "log_norm",
        f"{LAWS}[cached-half]",
    ),
    Mutant(
        "items not held have the first row's chance",
        "samplers/cached.py",
        "request.exclude.mask(ids) | (slots < 0) |",
        "request.exclude.mask(ids) |",
        f"{LAWS}[cached-half]",
    ),
    Mutant(
        "unwritten rows in blocks",
        "functional/two_stage.py",
        "if not all_valid:",
        "if False:",
        f"{LAWS}[cached-gaps]",
    ),
    Mutant(
        "exclusions in gathered cells",
        "functional/two_stage.py",
        "    _mask_excluded(logits, request.exclude, queries, cells)\n    return",
        "    return",
        f"{LAWS}[cached-large]",
    ),
    Mutant(
        "a row taken away stays in its cell",
        "functional/two_stage.py",
        "request, cells = replace(request, exclude=exclude), slots.flatten() // CELL",
        "cells = slots.flatten() // CELL",
        "tests/functional/test_distinct.py::test_no_item_is_drawn_twice",
    ),
    Mutant(
        "a row taken away keeps its mass",
        "functional/two_stage.py",
        "log_masses[some, where] = torch",
        "unused = torch",
        f"{LAWS}[head_tail-fresh]",
    ),
    Mutant(
        "a view's coverage without its cache's",
        "functional/views.py",
        "self.base.coverage * len(self.cells)",
        "len(self.cells)",
        f"{LAWS}[scored-half]",
    ),
    Mutant(
        "a view's validity by its own slots",
        "functional/views.py",
        "self.base.valid[self._in_base(self._slots(0, self.num_rows))]",
        "self.base.valid[self._slots(0, self.num_rows)]",
        f"{LAWS}[scored-gaps]",
    ),
    Mutant(
        "cells that a view lacks",
        "functional/views.py",
        "torch.full((_num_cells(self.base),), -1",
        "torch.full((_num_cells(self.base),), 0",
        f"{LAWS}[scored-fresh]",
    ),
    Mutant(
        "the short last cell of a view",
        "functional/views.py",
        "whole - max(0, last - self.base.num_rows)",
        "whole",
        f"{LAWS}[scored-large]",
    ),
    Mutant(
        "pool without coverage",
        "samplers/shared.py",
        "log_expected += math.log(self.sampler.coverage)",
        "pass",
        f"{LAWS}[shared_cached-half]",
    ),
    Mutant(
        "kernel draw without coverage",
        "samplers/kernel.py",
        "math.log(self.num_negatives * self.coverage)",
        "math.log(self.num_negatives)",
        f"{LAWS}[quadratic-half]",
    ),
    Mutant(
        "kernel chances of items not held",
        "samplers/kernel.py",
        "request.exclude.mask(ids) | (slots < 0)",
        "request.exclude.mask(ids)",
        f"{LAWS}[quadratic-half]",
    ),
    Mutant(
        "index draw without coverage",
        "samplers/dynamic_index.py",
        "math.log(self.num_negatives * self.coverage)",
        "math.log(self.num_negatives)",
        f"{LAWS}[dynamic_index-half]",
    ),
    Mutant(
        "index chances of items not held",
        "samplers/dynamic_index.py",
        "request.exclude.mask(ids) | (slots < 0)",
        "request.exclude.mask(ids)",
        f"{LAWS}[dynamic_index-half]",
    ),
    Mutant(
        "rejection without coverage",
        "samplers/index_rejection.py",
        "log_z - math.log(self.cache.coverage)",
        "log_z",
        f"{FORMS}[index_rejection-half]",
    ),
    Mutant(
        "chain without coverage",
        "samplers/index_chain.py",
        "log_z = log_z - math.log(self.cache.coverage)",
        "pass",
        f"{FORMS}[chain-half]",
    ),
    Mutant(
        "tree draw without coverage",
        "samplers/tree_rejection.py",
        "log_z - math.log(self.cache.coverage)",
        "log_z",
        f"{FORMS}[index_tree-half]",
    ),
    Mutant(
        "tail of a search without coverage",
        "samplers/stale_ann.py",
        "dim=1) - math.log(self.cache.coverage)",
        "dim=1)",
        f"{LAWS}[stale_top_k_tail-half]",
    ),
    Mutant(
        "best rows that were never written",
        "samplers/stale_ann.py",
        "(slots < 0) | ~rows.valid[slots.clamp_min(0)]",
        "(slots < 0)",
        f"{LAWS}[stale_top_k_tail-gaps]",
    ),
    Mutant(
        "a mixture's masked hits count",
        "samplers/mixture.py",
        "(-log_q - math.log(drawn.shape[1])).masked_fill(~alive, -torch.inf)",
        "(-log_q - math.log(drawn.shape[1]))",
        f"{LAWS}[mixture-barred]",
    ),
    Mutant(
        "a query without negatives draws at weight 0",
        "samplers/cached.py",
        "(log_share + log_z[:, None] - found.logits).masked_fill(dead, -torch.inf)",
        "(log_share + log_z[:, None] - found.logits).masked_fill(dead, 0)",
        f"{LAWS}[cached-barred]",
    ),
]
