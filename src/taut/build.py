"""What a plan builds for a dataset: the model, the objective and the stream of batches."""

from __future__ import annotations

from pathlib import Path

import torch

from taut.baselines import find_objective
from taut.data.dataset import Dataset
from taut.data.stream import Stream
from taut.facts import Facts
from taut.nn.vae import LabelVAE
from taut.nn.weights import load_weights
from taut.objective import Objective
from taut.plan import Plan
from taut.prevalence import stated_prior
from taut.train import processes


def build_model(dataset: Dataset, plan: Plan, facts: Facts, weights: bool = True) -> LabelVAE:
    """A fresh LabelVAE: weights drawn from the plan's seed, prior and standardisation from the training set.

    The encoder has the weights that the plan names, DataError where they do not fit, or none, as for a checkpoint's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.seed)  # and not a GPU's, which nothing would put back
        model = LabelVAE(dataset.space, plan.architecture(facts.shape))
        if dataset.auxiliary is not None and find_objective(plan.objective.name).takes_auxiliary:
            model.learn_auxiliary(dataset.auxiliary.space.sizes)
    if weights and plan.model.weights is not None:
        load_weights(model.encoder.backbone, Path(plan.model.weights), plan.model.encoder)
    model.log_prior.copy_(
        torch.from_numpy(
            stated_prior(
                dataset.space, dataset.space.prior(dataset.annotation, plan.objective.prior), dataset.prevalence
            )
        )
    )
    model.shift.copy_(torch.tensor(facts.mean).reshape(model.shift.shape))
    model.scale.copy_(torch.tensor(facts.scale).reshape(model.scale.shape))
    if facts.knee:
        model.center.copy_(torch.tensor(facts.center))
        model.knee.copy_(torch.tensor(facts.knee))
    return model


def build_objective(model: LabelVAE, plan: Plan, facts: Facts) -> Objective:
    """The objective that a plan names."""
    return find_objective(plan.objective.name).from_plan(model, plan, facts)


def build_stream(dataset: Dataset, plan: Plan, objective: Objective) -> Stream:
    """The stream of batches of a plan for this process."""
    state = processes()
    return Stream(
        dataset,
        plan.augment,
        plan.train.batch_labelled,
        plan.train.batch_unlabelled,
        plan.seed,
        objective.second_view,
        state.process_index,
        state.num_processes,
        plan.train.unannotated,
    )
