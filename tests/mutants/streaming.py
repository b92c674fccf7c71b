"""Faults of the cache of a stream: who is there, who leaves, and what a row stands for."""

from tests.mutants.mutant import Mutant

EXCLUSION = "tests/test_exclusion.py::"
RING = "tests/stores/test_ring.py::"
STREAM = "tests/stores/test_streaming.py::"

HELD = [
    Mutant(
        "rows of zeros are negatives from the start",
        "stores/table.py",
        "torch.full((shard.size,), NEVER, dtype",
        "torch.full((shard.size,), 0, dtype",
        f"{STREAM}test_the_first_step_has_no_negatives_and_moves_nothing",
    ),
    Mutant(
        "an item has the row of the one that left",
        "stores/streaming.py",
        "        self._let_go(slots)\n        self.ring.put",
        "        self.ring.put",
        f"{STREAM}test_a_new_item_takes_the_slot_and_not_the_row_of_the_one_that_leaves",
    ),
    Mutant(
        "rows that were drawn are not written back",
        "stores/streaming.py",
        "if not (self.refresh.takes_training_rows or self.refreshing):",
        "if not self.refreshing:",
        f"{STREAM}test_drawn_rows_are_encoded_anew_written_back_and_carry_gradient",
    ),
    Mutant(
        "an item that comes again is as old as before",
        "stores/streaming.py",
        "self.ring.touch(slots[slots >= 0], when[slots >= 0])",
        "pass",
        f"{STREAM}test_the_cache_holds_the_last_distinct_items",
    ),
    Mutant(
        "an item that waits and comes again is as old as before",
        "stores/streaming.py",
        "self.features.again(places[places >= 0], when[places >= 0])",
        "pass",
        f"{STREAM}test_the_cache_holds_the_last_distinct_items",
    ),
    Mutant(
        "an item came when it came first in a batch",
        "stores/arrivals.py",
        '"amax")',
        '"amin", include_self=False)',
        f"{STREAM}test_the_cache_holds_the_last_distinct_items",
    ),
    Mutant(
        "the newest items leave",
        "stores/ring.py",
        "topk(count, largest=False)",
        "topk(count)",
        f"{RING}test_the_published_bookkeeping",
    ),
    Mutant(
        "of items of one age those in the last slots leave",
        "stores/ring.py",
        "self.touched * len(self) + slots",
        "self.touched * len(self) - slots",
        f"{RING}test_the_published_bookkeeping",
    ),
    Mutant(
        "padding is found in an empty slot",
        "stores/ring.py",
        "(self._ordered[place] == ids) & (ids >= 0)",
        "self._ordered[place] == ids",
        f"{RING}test_which_items_are_there",
    ),
    Mutant(
        "first in, first out keeps what was drawn",
        "stores/streaming.py",
        'if self.eviction != "fifo" and not self.refreshing:',
        "if not self.refreshing:",
        f"{STREAM}test_rows_that_were_drawn_stay_under_the_other_eviction",
    ),
    Mutant(
        "a refresh keeps rows longer",
        "stores/streaming.py",
        'if self.eviction != "fifo" and not self.refreshing:',
        'if self.eviction != "fifo":',
        f"{STREAM}test_a_refresh_keeps_no_row_longer",
    ),
    Mutant(
        "rows of items that leave are refreshed",
        "stores/streaming.py",
        " & ~torch.isin(slots + self.shard.first, leaving)]",
        "]",
        f"{STREAM}test_a_new_item_takes_the_slot_and_not_the_row_of_the_one_that_leaves",
    ),
    Mutant(
        "items that wait are forgotten at the end of the step",
        "stores/streaming.py",
        "            self._place(torch.arange(len(self.features.waiting)))\n",
        "            self.features.settle(*2 * [torch.arange(len(self.features.waiting))])\n",
        f"{STREAM}test_positives_enter_as_the_step_encodes_them_and_other_items_at_its_end",
    ),
    Mutant(
        "features of the item that left stay",
        "stores/feature_ring.py",
        "rows[slots.cpu()] = self.new[name][places]",
        "pass",
        f"{STREAM}test_the_cache_holds_the_last_distinct_items",
    ),
    Mutant(
        "a resumed stream knows no ages",
        "stores/ring.py",
        '        self.touched.copy_(state["touched"])\n',
        "",
        f"{STREAM}test_a_resumed_run_is_the_straight_one",
    ),
    Mutant(
        "a resumed stream has lost the arrivals that wait",
        "stores/arrivals.py",
        'self.pending = state["pending"].clone().to(self.last.device)',
        "self.pending = self.last[:0]",
        f"{STREAM}test_a_resumed_run_is_the_straight_one",
    ),
]
"""Of the items of a stream, and of their rows and features."""

COUNTED = [
    Mutant(
        "arrivals that wait are counted already",
        "stores/streaming.py",
        "        if not len(self.features.waiting):\n            self.arrivals",
        "        if True:\n            self.arrivals",
        f"{STREAM}test_weights_are_those_of_the_stream[popularity]",
    ),
    Mutant(
        "the window of distinct items is one too long",
        "stores/arrivals.py",
        "self.total - 1 - self.left",
        "self.total - self.left",
        f"{STREAM}test_weights_are_those_of_the_stream[dedup]",
    ),
    Mutant(
        "distinct items are counted from the first of those that left together",
        "stores/streaming.py",
        "int(self.ring.touched[slots].max())",
        "int(self.ring.touched[slots].min())",
        f"{STREAM}test_weights_are_those_of_the_stream[dedup]",
    ),
    Mutant(
        "the window of arrivals is one too long",
        "stores/arrivals.py",
        "min(max(self.total, 1), len(ring))",
        "min(max(self.total, 1), len(ring)) + 1",
        f"{STREAM}test_weights_are_those_of_the_stream[popularity]",
    ),
    Mutant(
        "a window that is not full counts as one",
        "stores/arrivals.py",
        "min(max(self.total, 1), len(ring))",
        "len(ring)",
        f"{STREAM}test_weights_are_those_of_the_stream[popularity]",
    ),
    Mutant(
        "items share the counts of those they meet in a bucket",
        "stores/arrivals.py",
        "found.amin(dim=0)",
        "found.amax(dim=0)",
        f"{STREAM}test_an_item_that_meets_another_in_one_bucket_has_its_own_count",
    ),
    Mutant(
        "empty slots stand for items",
        "stores/streaming.py",
        "max(1, int(self.ring.occupied.sum()))",
        "len(self.ring)",
        f"{STREAM}test_rows_that_stand_for_equal_shares_of_the_items",
    ),
]
"""Of how many items a row stands for."""

WEIGHED = [
    Mutant(
        "weights of rows are left out of the law",
        "ops/two_stage.py",
        "rows.weighted(rows.score(rows.queries, chunk, out=out), slice(first, last))",
        "rows.score(rows.queries, chunk, out=out)",
        f"{STREAM}test_draws_stand_for_the_weighted_rows[cached]",
    ),
    Mutant(
        "weights of rows count twice in the law",
        "ops/two_stage.py",
        "if not self.all_valid:",
        "rows.weighted(logits, slice(first, last))\n        if not self.all_valid:",
        f"{STREAM}test_draws_stand_for_the_weighted_rows[cached]",
    ),
    Mutant(
        "weights of rows are left out of gathered blocks",
        "ops/drawn_blocks.py",
        "    if rows.log_weights is not None:",
        "    if False:",
        "tests/ops/test_weighted_rows.py::test_in_what_is_left_when_rows_are_taken_away",
    ),
    Mutant(
        "weights of rows are left out of chances",
        "ops/scored_rows.py",
        "self.weighted(self.score(self.queries, self.rows(slots)).detach(), slots)",
        "self.score(self.queries, self.rows(slots)).detach()",
        f"{STREAM}test_draws_stand_for_the_weighted_rows[cached]",
    ),
    Mutant(
        "weights of rows are those of the first rows in a view",
        "ops/views.py",
        "weights[base]",
        "weights[every]",
        "tests/ops/test_weighted_rows.py::test_in_a_view_of_some_blocks",
    ),
    Mutant(
        "weights of rows are left out of each query's draws",
        "draws.py",
        "math.log(self.proposal.coverage) - row_weights(self.proposal.store, ids)",
        "math.log(self.proposal.coverage)",
        f"{STREAM}test_draws_stand_for_the_weighted_rows[cached]",
    ),
    Mutant(
        "weights of rows are left out of draws with shares",
        "draws.py",
        "(log_weight + stands + row_weights(store, ids)).to(dtype)",
        "(log_weight + stands).to(dtype)",
        f"{STREAM}test_draws_stand_for_the_weighted_rows[distinct]",
    ),
    Mutant(
        "rows with weights are taken for all items",
        "draws.py",
        "self.proposal.coverage == 1 and (store is None or store.log_weights is None)",
        "self.proposal.coverage == 1",
        f"{STREAM}test_no_mixture_takes_weighted_rows_for_all_items",
    ),
]
"""Of weights of rows, in laws and in draws."""

EXCLUDED = [
    Mutant(
        "exclusions of large ids overflow where they are listed",
        "exclusion.py",
        "if span * num_rows >= WIDE:",
        "if span * num_rows >= WIDE**9:",
        f"{EXCLUSION}test_ids_of_63_bits",
    ),
    Mutant(
        "exclusions of large ids overflow where they are looked up",
        "exclusion.py",
        "keys, wanted = self.rows * len(distinct) + own, rows * len(distinct) + ranks",
        "span = int(self.ids.max()) + 1\n"
        "        keys, wanted = self.rows * span + self.ids, rows * span + ids",
        f"{EXCLUSION}test_ids_of_63_bits",
    ),
    Mutant(
        "the next excluded item is taken for the one that is looked up",
        "exclusion.py",
        "(keys[place] == wanted) & (distinct[ranks] == ids)",
        "keys[place] == wanted",
        f"{EXCLUSION}test_ids_of_63_bits",
    ),
]
"""Of exclusions by ids of any size."""

MUTANTS = [*HELD, *COUNTED, *WEIGHED, *EXCLUDED]
