"""Faults of several processes that train as one: shares, turns, noise, exchange, scale."""

from tests.mutants.mutant import Mutant

SHARDED = "tests/losses/test_sharded_roster.py::"
SETTINGS = "tests/losses/test_sharded_settings.py::"


def one(case: str) -> str:
    """Two processes train what one trains."""
    return f"{SHARDED}test_several_processes_are_one[2-{case}]"


def setting(case: str) -> str:
    """The same, of a setting of the loss."""
    return f"{SETTINGS}test_two_processes_are_one[{case}]"


def even(case: str) -> str:
    """Each item is encoded by one of them."""
    return f"{SHARDED}test_encoding_is_dealt_out_evenly[2-{case}]"


SCALE = [
    Mutant(
        "the loss counts once for each process",
        "step.py",
        "weighted.sum() * mesh.size / mesh.total",
        "weighted.sum() * mesh.size**2 / mesh.total",
        one("cached"),
    ),
    Mutant(
        "unequal batches weigh the same",
        "step.py",
        "return weighted.sum() * mesh.size / mesh.total(each.sum())",
        "return weighted.sum() / each.sum()",
        one("uniform"),
    ),
]

TURNS = [
    Mutant(
        "the owner draws by the uniform that picked it",
        "ops/shards.py",
        "uniforms[..., 0] = left.nan_to_num(0.0).clamp(0.0, 1 - torch.finfo(left.dtype).eps)",
        "pass",
        one("cached"),
    ),
    Mutant(
        "a draw has the chance that it has on its process",
        "draws.py",
        "log_q = log_q + masses.log_share[:, None].to(log_q.dtype)",
        "pass",
        one("flat"),
    ),
    Mutant(
        "an item has the chance that it has on its process",
        "draws.py",
        "return log_q if self.masses is None else log_q + self.masses.log_share[:, None].to(log_q)",
        "return log_q",
        one("shared_cached"),
    ),
    Mutant(
        "trees spend the first uniform first",
        "draws.py",
        "turn = int(self.proposal.spends_last_first)",
        "turn = 0",
        one("quadratic"),
    ),
    Mutant(
        "the partition of the rows here",
        "draws.py",
        "log_mass = self.proposal.log_mass if self.masses is None else self.masses.log_total",
        "log_mass = self.proposal.log_mass",
        setting("by_partition"),
    ),
    Mutant(
        "the tail of the rows here",
        "stores/reading.py",
        "logits.masked_fill(nothing, -torch.inf), masses.log_total)",
        "logits.masked_fill(nothing, -torch.inf), scanned.log_mass)",
        one("head_tail"),
    ),
    Mutant(
        "each process' own best are the best",
        "samplers/stale_ann.py",
        "ids, scores = best_of_all(mesh, ids, scores.masked_fill(slots < 0, -torch.inf), "
        "self.depth)",
        "ids = mesh.from_owners(ids, torch.tensor(mesh.rank == 0))",
        one("stale_top_k"),
    ),
    Mutant(
        "every process begins the line of chances anew",
        "samplers/rest.py",
        "before = mesh.gather(chances.sum()[None])[: mesh.rank].sum()",
        "before = 0 * mesh.gather(chances.sum()[None]).sum()",
        one("rest"),
    ),
    Mutant(
        "the rest's mean is that of the rows here",
        "samplers/rest.py",
        "mesh.total(seen.mean - share @ table)",
        "seen.mean - share @ table",
        one("rest"),
    ),
]

ASKED = [
    Mutant(
        "every process draws noise of its own",
        "losses.py",
        "generator = self.generators.of(training)",
        "generator = self.generators.of(training).manual_seed(mesh.rank)",
        one("shared_cached"),
    ),
    Mutant(
        "every process has the noise of the first rows",
        "messages.py",
        "return noise[self.first_row : self.first_row + mine]",
        "return noise[:mine]",
        one("uniform"),
    ),
    Mutant(
        "positives of the other processes' queries are forgotten",
        "messages.py",
        "exclude=self.exclude.gathered(mesh, entries, rows),",
        "exclude=(lambda every: Exclusion.from_pairs(every.rows[every.rows < rows[0]], "
        "every.ids[every.rows < rows[0]], sum(rows)))"
        "(self.exclude.gathered(mesh, entries, rows)),",
        one("shared_cached"),
    ),
]

SHARES = [
    Mutant(
        "only what a process encoded is written",
        "losses.py",
        "self.store.write(items.ids, rows)",
        "mine = self.store.shard.mesh.part(len(rows)); "
        "self.store.write(items.ids[mine], rows[mine])",
        one("cached"),
    ),
    Mutant(
        "gradients stay with the process that found them",
        "encoder.py",
        "return mesh.gather(rows[: len(mine)], shares)",
        "every, part = mesh.gather(rows[: len(mine)].detach(), shares), mesh.part(len(ids)); "
        "return torch.cat([every[: part.start], rows[: len(mine)], every[part.stop :]])",
        one("cached"),
    ),
    Mutant(
        "rows are put together in another order than they were dealt out",
        "encoder.py",
        "mine, shares = ids[mesh.part(len(ids))]",
        "mine, shares = ids.flip(0)[mesh.part(len(ids))]",
        one("cached"),
    ),
    Mutant(
        "every process encodes everything",
        "encoder.py",
        "if mesh.size == 1:\n            return self.encode(ids)\n        mine",
        "if True:\n            return self.encode(ids)\n        mine",
        even("cached"),
    ),
    Mutant(
        "who has one item less calls the tower for fewer",
        "encoder.py",
        "self.encode(torch.cat([mine, ids[:1]])[: max(shares)])",
        "self.encode(mine)",
        even("joined"),
    ),
    Mutant(
        "who has less to refresh calls the tower less often",
        "encoder.py",
        "torch.cat([some, some.new_full((short,), spare)])",
        "some",
        setting("parts"),
    ),
    Mutant(
        "turns are not those of the blocks here",
        "stores/refresh.py",
        "counts = counts[shard.blocks.start : shard.blocks.stop].to(written.device)",
        "counts = counts[: len(shard.blocks)].to(written.device)",
        one("cached"),
    ),
    Mutant(
        "every process encodes the whole plan",
        "stores/subset.py",
        "return new[self.shard.local(slots) >= 0]",
        "return new",
        even("half_cached"),
    ),
    Mutant(
        "what leaves is told to its owner alone",
        "stores/subset.py",
        "            self.place[self.held[slots]] = -1\n"
        "            self.held[slots], self.place[new] = new, slots\n",
        "            mine = self.shard.local(slots) >= 0\n"
        "            slots, new = slots[mine], new[mine]\n"
        "            self.place[self.held[slots]] = -1\n"
        "            self.held[slots], self.place[new] = new, slots\n",
        one("half_cached"),
    ),
]

MET = [
    Mutant(
        "targets as wide as on this process",
        "losses.py",
        "sampled_loss(queries, asked.positives[mine], ",
        "sampled_loss(queries, positives, ",
        setting("several"),
    ),
    Mutant(
        "a process without weight is refused",
        "validation.py",
        "queries and not together and not float",
        "queries and not float",
        setting("silent"),
    ),
    Mutant(
        "a process without classes spends no noise",
        "class_step.py",
        "self._pass_over(queries.detach(), place[1])",
        "pass",
        setting("head_uniform_ignored"),
    ),
    Mutant(
        "noise for rows that do not count",
        "class_step.py",
        "mesh.place(len(rows.kept) if alike else len(rows.hidden), self.training)",
        "mesh.place(len(rows.kept), self.training)",
        setting("head_uniform_ignored"),
    ),
    *(
        Mutant(
            name,
            "stores/among_processes.py",
            old,
            new,
            f"{SETTINGS}test_a_forgotten_step_is_named_and_can_be_made_up_for[forgetful]",
        )
        for name, old, new in (
            ("nobody looks at the others' clocks", "    if behind:", "    if False:"),
            ("a step is not ahead", "store.clock + ahead)", "store.clock)"),
        )
    ),
    Mutant(
        "a tower that has no weights of its own is refreshed",
        "stores/among_processes.py",
        "not runs_alone(tower)",
        "False",
        f"{SETTINGS}test_shards[golden]",
    ),
    Mutant(
        "queries that keep their draws from a store of all",
        "stores/among_processes.py",
        "store.shard.mesh.size > 1 and not gather_across_devices",
        "False",
        f"{SETTINGS}test_shards[golden]",
    ),
]

MUTANTS = [*MET, *SCALE, *TURNS, *ASKED, *SHARES]
