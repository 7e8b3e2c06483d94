"""How much memory a training will take, from one forward pass of a few rows: said before training begins."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from taut.build import build_model, build_objective, build_stream
from taut.data.dataset import Dataset
from taut.facts import Facts
from taut.fit import hold_out, judges_of
from taut.looks import can_judge
from taut.plan import Plan
from taut.train import separate_randomness

MIB = 2**20
ROWS = 8  # rows of the smaller of the two batches that are measured


@dataclass(frozen=True)
class Memory:
    """MiB of a training step's tensors. parameters: trained numbers.

    weights: parameters, their gradients, AdamW's two moments and the averaged copy, and where there are any a teacher's
    and the copy that held-out annotations choose.
    activations: what the forward pass of one batch keeps for the backward pass.
    """

    parameters: int
    weights: float
    activations: float

    @property
    def total(self) -> float:
        """All of them, MiB."""
        return self.weights + self.activations

    def sentence(self) -> str:
        """For people."""
        return (
            f"memory: about {self.total:.0f} MiB of tensors ({self.parameters:,} parameters; weights, gradients, AdamW "
            f"and averages {self.weights:.0f} MiB, activations of one batch {self.activations:.0f} MiB), "
            "beside the data and the libraries"
        )


def estimate_memory(dataset: Dataset, plan: Plan, facts: Facts) -> Memory:
    """The memory of a step of a plan on a training set; the model is thrown away.

    The activations are counted on two small batches, and their line is followed to the planned size.
    """
    with separate_randomness(torch.device("cpu")):
        model = build_model(dataset, plan, facts)
        objective = build_objective(model, plan, facts)
        build_stream(dataset, plan, objective)  # which refuses empty batches
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    own = [*model.parameters(), *model.buffers()]
    known = {id(tensor) for tensor in own}
    copies = [t for t in [*objective.parameters(), *objective.buffers()] if id(t) not in known]  # a teacher's
    judged = plan.train.looks > 0 and can_judge(judges_of(dataset, hold_out(dataset, plan)[1]))
    weights = (3 if judged else 2) * _bytes(own) + _bytes(copies) + 3 * 4 * trained
    labelled, unlabelled = plan.train.batch_labelled, plan.train.batch_unlabelled
    rows = labelled + unlabelled
    share = min(1.0, ROWS / rows)
    # Batch normalisation wants two rows.
    small = _share(labelled, share), _share(unlabelled, share)
    large = 2 * small[0], 2 * small[1]
    counts = [_activations(dataset, plan, facts, *batch) for batch in (small, large)]
    per_row = (counts[1] - counts[0]) / (sum(large) - sum(small))
    activations = max(counts[0], counts[0] + per_row * (rows - sum(small)))
    return Memory(trained, weights / MIB, activations / MIB)


def _share(count: int, share: float) -> int:
    return max(2, round(count * share)) if count else 0


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _activations(dataset: Dataset, plan: Plan, facts: Facts, labelled: int, unlabelled: int) -> int:
    """Bytes that one forward pass keeps for its backward pass, each storage counted once and no weights."""
    plan = copy.deepcopy(plan)
    plan.model.weights = None  # their values do not matter here
    plan.train.batch_labelled, plan.train.batch_unlabelled = labelled, unlabelled
    kept: dict[int, int] = {}
    with separate_randomness(torch.device("cpu")):
        torch.default_generator.manual_seed(0)
        model = build_model(dataset, plan, facts).to(memory_format=torch.channels_last)
        objective = build_objective(model, plan, facts)
        model.train()
        objective.train()
        own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
        batch = build_stream(dataset, plan, objective).batch(0, model, torch.device("cpu"))

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=plan.train.precision != "fp32")
        with saved_tensors_hooks(keep, lambda tensor: tensor), half:
            terms = objective.loss(model, batch, plan.train.steps - 1)
        size = sum(kept.values())
        del terms
    return size
