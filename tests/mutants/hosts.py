"""Faults of what every trainer relies on: steps, states, devices, gradients that are shared."""

from tests.mutants.mutant import Mutant

STEPS = "tests/losses/test_step_with.py"
SAVING = "tests/losses/test_saving.py"
DEVICES = "tests/losses/test_devices.py"
RETRIEVER = "tests/losses/test_retriever.py"
WEIGHTS = "tests/losses/test_weights.py"
META = "tests/losses/test_meta_device.py"
PROCESSES = "tests/losses/test_two_processes.py"
DDP = "tests/integrations/test_ddp.py"

MUTANTS = [
    Mutant(
        "a fused step that was skipped counts",
        "optimizer_steps.py",
        "if overflow is None or not bool(overflow):",
        "if True:",
        STEPS,
    ),
    Mutant(
        "two optimizers are followed",
        "optimizer_steps.py",
        "            self._handle.remove()",
        "            pass",
        STEPS,
    ),
    Mutant(
        "a copy follows the optimizer",
        "optimizer_steps.py",
        'return {"_handle": None, "_passes": self._passes}',
        "return dict(vars(self))",
        STEPS,
    ),
    Mutant(
        "never stepped is told again and again",
        "optimizer_steps.py",
        "        self._passes = None\n\n    def stepped",
        "        self._passes = 0\n\n    def stepped",
        STEPS,
    ),
    Mutant(
        "evaluations are told to step",
        "losses.py",
        "if training and self.store is not None and not self.store.is_live:",
        "if self.store is not None and not self.store.is_live:",
        STEPS,
    ),
    Mutant(
        "steps by hand count beside the optimizer's",
        "losses.py",
        "        if self._steps.followed:",
        "        if False:",
        STEPS,
    ),
    Mutant(
        "passes without gradient spend the noise of training",
        "losses.py",
        "generator = self.generators.of(training)",
        "generator = self.generators.of(self.training)",
        SAVING,
    ),
    Mutant(
        "two evaluations in training mode share their noise",
        "generators.py",
        "            self._evaluation = None\n            return self.training",
        "            return self.training",
        SAVING,
    ),
    Mutant(
        "weights without the own state are taken",
        "validation.py",
        'if f"{prefix}_extra_state" not in state:',
        "if False:",
        SAVING,
    ),
    Mutant(
        "tuples stay behind",
        "devices.py",
        '                return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)',
        "                return value",
        DEVICES,
    ),
    Mutant(
        "indexes stay behind",
        "devices.py",
        "            case _ if _ours(value):\n                self.within(value)",
        "            case _ if False:\n                self.within(value)",
        DEVICES,
    ),
    Mutant(
        "what belongs in ordinary memory moves",
        "devices.py",
        "if name not in on_host:",
        "if True:",
        DEVICES,
    ),
    Mutant(
        "a shared tower stands twice",
        "retriever.py",
        "None if query_tower is loss_fn.item_tower else query_tower",
        "query_tower",
        RETRIEVER,
    ),
    Mutant(
        "weights are left out of the mean",
        "step.py",
        "return weighted.sum() * mesh.size / mesh.total(each.sum())",
        "return weighted.mean()",
        WEIGHTS,
    ),
    Mutant(
        "gradients may stay with one process",
        "losses.py",
        'check_shared_gradients(mesh.size, shared, "negcache.Retriever(loss_fn, query_tower)")',
        "pass",
        PROCESSES,
    ),
    Mutant(
        "wrappers below the loss are not seen",
        "distributed.py",
        "for one in part.parameters()}",
        "for one in ()}",
        PROCESSES,
    ),
    Mutant(
        "a part that towers share stands twice in the state",
        "retriever.py",
        "        state.pop(prefix + name, None)",
        "        pass",
        RETRIEVER,
    ),
    Mutant(
        "sums of one process' rows may never start anew",
        "stores/among_processes.py",
        "if store.observers and not store.renew_every:",
        "if False:",
        DDP,
    ),
    Mutant(
        "a live table may be another's",
        "stores/among_processes.py",
        "if store.weight.requires_grad and not any(",
        "if False and not any(",
        DDP,
    ),
    Mutant(
        "the gradients of a head may stay with one process",
        "stores/among_processes.py",
        "check_shared_gradients(num_processes, shares_gradients(source), whole)",
        "check_shared_gradients(num_processes, True, whole)",
        DDP,
    ),
    Mutant(
        "an optimizer that is gone is followed",
        "optimizer_steps.py",
        "return self._handle is not None and self._handle.hooks_dict_ref() is not None",
        "return self._handle is not None",
        STEPS,
    ),
    Mutant(
        "replicas of DataParallel share a generator",
        "validation.py",
        'if getattr(module, "_is_replica", False):',
        "if False:",
        DEVICES,
    ),
    Mutant(
        "a sampler without its data is given memory",
        "devices.py",
        '    if tensor.is_meta and device.type != "meta":',
        "    if False:",
        META,
    ),
    Mutant(
        "a mean over weights of sum 0",
        "validation.py",
        "queries and not together and not float(weight.sum())",
        "False",
        WEIGHTS,
    ),
    Mutant(
        "a tree built in inference mode stays there",
        "indexes/sg_tree/tree_clusters.py",
        "    @torch.inference_mode(False)\n    @torch.no_grad()",
        "    @torch.no_grad()",
        "tests/losses/test_inference_mode.py",
    ),
]
