"""From a dataset and a plan to a trained and calibrated model: what the command line and the estimator share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taut.baselines import DEFAULT, find_objective
from taut.budget import fit_to_budget
from taut.build import build_model, build_objective, build_stream
from taut.data.cells import annotation_notes, certain
from taut.data.dataset import DataError, Dataset
from taut.data.mapped import select
from taut.data.split import deal_folds, fold_count, hide, split_off
from taut.evaluate.calibration import LEAST_OBSERVED, calibrate, calibrate_on
from taut.evaluate.ood import fit_ood
from taut.facts import Facts, fingerprint
from taut.folds import cross_fit
from taut.looks import can_judge
from taut.nn.vae import LabelVAE
from taut.plan import MOST_FOLDS, Plan, override
from taut.rules import make_plan, uncalibrated
from taut.run import Run
from taut.train import TrainingError, TrainResult, processes, train

MOST_OF_SHARE = 2  # where whole groups would hold out more than twice the planned share, nothing is held out


def plan_for(
    facts: Facts,
    seed: int = 0,
    objective: str = DEFAULT,
    encoder: str | None = None,
    weights: str | None = None,
    still: bool = False,
) -> Plan:
    """Every decision for an objective from the facts of the training set; ValueError for an unknown name.

    still: whether images are to be left as they are, without augmentation.
    """
    method = find_objective(objective)
    facts = facts if method.takes_auxiliary else dataclasses.replace(facts, auxiliary=0)
    plan = make_plan(facts, seed, encoder, weights, still)
    plan.objective.name = objective
    changes = method.plan_for(facts)
    return override(plan, changes, f"objective {objective}") if changes else plan


def changed_plan(facts: Facts, change: Callable[[Plan], Plan], seed: int = 0, objective: str = DEFAULT) -> Plan:
    """The planned decisions as a person changed them.

    What follows from another encoder or its weights, and from images that nothing augments, follows.
    """
    planned = plan_for(facts, seed, objective)
    plan = change(planned)
    chosen = (plan.model.encoder, plan.model.weights)
    still = facts.is_image and not plan.augment.changes_images
    if chosen == (planned.model.encoder, planned.model.weights) and not still:
        return plan
    return change(plan_for(facts, seed, objective, *chosen, still))


def plan_of(
    dataset: Dataset, change: Callable[[Plan], Plan] = lambda plan: plan, seed: int = 0, objective: str = DEFAULT
) -> Plan:
    """The decisions for a training set, of which a "valid" part of its own is no fact.

    There are no folds where that part is enough to calibrate on, or where nothing is to be calibrated, and no more of
    them than the annotated images can be dealt into.
    """
    learnt = dataset.rows(~own_valid(dataset))
    # What is stated is not to be estimated.
    stated = {"objective.check_prior": False} if dataset.prevalence else {}
    plan = changed_plan(fingerprint(learnt), lambda plan: change(override(plan, stated, "prevalence")), seed, objective)
    settings = plan.train
    needed = not own_part_calibrates(dataset) and (settings.calibration, settings.threshold) != ("none", "half")
    settings.folds = fold_count(learnt, settings.folds) if needed else 0
    return plan


def own_valid(dataset: Dataset) -> NDArray[np.bool_]:
    """The images of the dataset's own "valid" part: [N]. None where it is unannotated: it can teach, and not judge."""
    valid = np.zeros(len(dataset), dtype=bool) if dataset.split is None else np.asarray(dataset.split == "valid")
    return valid & bool(dataset.annotation.observed[valid].any())


def own_part_calibrates(dataset: Dataset) -> bool:
    """Whether the dataset's own "valid" part is enough to calibrate on, so that neither folds nor a share need be."""
    return can_calibrate(judges_of(dataset, np.flatnonzero(own_valid(dataset))))


def ignored_requests(dataset: Dataset, change: Callable[[Plan], Plan], plan: Plan) -> list[str]:
    """Sentences about the changes that have no effect beside a "valid" part of the dataset's own."""
    if not own_part_calibrates(dataset):
        return []
    asked = change(override(plan, {"train.valid_fraction": 0.0, "train.folds": 0}, "valid part")).train
    flags = [f"--train.{name} {getattr(asked, name):g}" for name in ("valid_fraction", "folds") if getattr(asked, name)]
    return [f'{flag} has no effect: the "valid" part of {dataset.name} is held out instead' for flag in flags]


def ignored_images(plan: Plan, facts: Facts, planned: int) -> list[str]:
    """A sentence where images without annotation, of which so many are planned for a batch, take no part.

    So it is where a plan file was made for data that are annotated completely.
    """
    unfinished = facts.images - facts.fully_annotated_images
    ignored = planned > 0 and plan.train.batch_unlabelled == 0
    return [f"train.batch_unlabelled is 0: {unfinished:,} images that lack annotations take no part"] if ignored else []


def ignored_auxiliary(dataset: Dataset, *objectives: str) -> list[str]:
    """A sentence for each of some objectives that does not learn from the dataset's auxiliary variables."""
    silent = [] if dataset.auxiliary is None else [n for n in objectives if not find_objective(n).takes_auxiliary]
    return [f"{name} does not learn from auxiliary variables" for name in silent]


@dataclass
class Fitted:
    """A trained model with the plan and facts behind it."""

    model: LabelVAE
    plan: Plan
    facts: Facts
    result: TrainResult
    notes: list[str]


def hold_out(dataset: Dataset, plan: Plan) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to train on and to calibrate on: the dataset's own "valid" part, or the plan's share of annotated rows.

    Both where its own part is too small to calibrate on. None of the share are held out where groups or rare classes
    leave nothing that could be spared. That a group is in the dataset's own "valid" part and outside it is for
    `check_leakage` to refuse.
    """
    rows, own = np.arange(len(dataset)), own_valid(dataset)
    if plan.train.valid_fraction == 0 or own_part_calibrates(dataset):
        return rows[~own], rows[own]
    annotated = np.flatnonzero(dataset.annotation.observed.any(axis=1) & ~own)
    wanted = plan.train.valid_fraction * len(annotated)
    try:
        chosen = annotated[split_off(dataset.rows(annotated), plan.train.valid_fraction, plan.seed)]
    except DataError:
        return rows[~own], rows[own]
    valid = own | np.isin(rows, chosen)
    if dataset.groups is not None:
        valid |= np.isin(dataset.groups, np.unique(dataset.groups[chosen]))
    # Whole groups may leave too little to learn from; and what is held out may be too little to calibrate on.
    short = wanted >= LEAST_OBSERVED and not can_judge(judges_of(dataset, np.flatnonzero(valid)))
    if len(chosen) > MOST_OF_SHARE * wanted or short:
        valid = own
    return rows[~valid], rows[valid]


def fit(
    dataset: Dataset,
    change: Callable[[Plan], Plan] = lambda plan: plan,
    minutes: float | None = None,
    seed: int = 0,
    run: Run | None = None,
    source: dict[str, Any] | None = None,
    quiet: bool = False,
    objective: str = DEFAULT,
    tell: Callable[[str], None] = lambda note: None,
) -> Fitted:
    """Plan, train and calibrate on a training set; test data is never passed in.

    change: takes the planned decisions to the ones to be used.  minutes: a time budget for the training.
    objective: the method, one of `taut.baselines.OBJECTIVES`.
    tell: gets each note as soon as it is known, warnings before the training; not those that the dataset came with.
    """
    space = dataset.space
    space.check_observed(dataset.annotation)
    plan = plan_of(dataset, change, seed, objective)
    if plan.train.precision == "fp16" and not torch.cuda.is_available():
        raise DataError("--train.precision fp16 is for GPUs: take fp32 or bf16 here")
    kept, held = hold_out(dataset, plan)
    training = dataset.rows(kept)
    lost = dataset.annotation.observed.any(axis=0) & ~training.annotation.observed.any(axis=0)
    if lost.any():
        # What `split_off` takes leaves something to learn from of every class; a part of the data's own may not.
        raise DataError(
            f'all annotations of {space.names[int(lost.argmax())]!r} are in the "valid" part of {dataset.name}, '
            "so that there is nothing to learn it from"
        )
    facts = fingerprint(training)
    planned = plan_for(facts, seed, plan.objective.name).train.batch_unlabelled
    notes = [*annotation_notes(training), *ignored_requests(dataset, change, plan)]
    notes += ignored_auxiliary(dataset, plan.objective.name) + ignored_images(plan, facts, planned)
    if not training.annotation.observed.any():
        notes.append("no image is annotated: the classes are clusters, in any order")
    for note in notes:
        tell(note)
    folds = plan.train.folds
    if minutes is not None:
        chosen = _chooses_others(change, plan)
        notes.append(fit_to_budget(training, plan, facts, minutes, judges_of(dataset, held), chosen))
        tell(notes[-1])
    # What cannot be built is refused before the folder has a plan, which would be in the way of another.
    build_stream(training, plan, build_objective(build_model(training, plan, facts), plan, facts))
    if run is not None and processes().is_main_process:
        run.save_plan(plan, facts, dict(source or {}))
        run.save_draw(kept, held, dataset.annotation.observed)
    told, hurried = [*dataset.notes, *notes], folds > plan.train.folds
    return _train_and_calibrate(
        dataset, training, held, plan, facts, run=run, again=False, notes=told, quiet=quiet, tell=tell, hurried=hurried
    )


def _chooses_others(change: Callable[[Plan], Plan], plan: Plan) -> bool:
    """Whether changes decide how many images without annotation are in a batch, whatever was planned."""
    others = plan.train.batch_unlabelled + 1
    asked = change(override(plan, {"train.batch_unlabelled": others}, "batch"))
    return asked.train.batch_unlabelled != others


def resume(dataset: Dataset, run: Run, quiet: bool = False, tell: Callable[[str], None] = lambda note: None) -> Fitted:
    """Go on with an interrupted run: its plan with the fitted number of steps, its draw, its checkpoint.

    tell: as in `fit`.  Raises DataError where the dataset is not the one that the run began with.
    """
    plan = run.load_plan()
    kept, held, observed = run.load_draw()
    other = DataError(f"{run.path} was begun with other data than {dataset.name}, or with other flags for reading it")
    if observed.shape != dataset.annotation.observed.shape or max(kept.max(), held.max(initial=0)) >= len(dataset):
        raise other
    dataset = dataclasses.replace(dataset, annotation=hide(dataset.annotation, observed, dataset.space.sizes))
    training = dataset.rows(kept)
    facts = fingerprint(training)
    if not run.has_facts(facts):
        raise other
    weights = plan.model.weights
    if weights is not None and not Path(weights).exists() and (plan.train.folds or not run.has_checkpoint()):
        raise DataError(f"{run.path} begins a training with the weights {weights}, which are no longer there")
    told = list(dataset.notes)
    return _train_and_calibrate(
        dataset, training, held, plan, facts, run=run, again=True, notes=told, quiet=quiet, tell=tell
    )


def _train_and_calibrate(
    dataset: Dataset,
    training: Dataset,
    held: NDArray[np.intp],
    plan: Plan,
    facts: Facts,
    *,
    run: Run | None,
    again: bool,
    notes: list[str],
    quiet: bool,
    tell: Callable[[str], None],
    hurried: bool = False,
) -> Fitted:
    def note(sentence: str) -> None:
        notes.append(sentence)
        tell(sentence)

    judges = judges_of(dataset, held)
    result = _train_once(training, plan, facts, run=run, again=again, quiet=quiet, held=judges)
    model = result.model
    for sentence in result.notes:
        note(sentence)
    if result.kept < result.steps:
        note(f"the weights of step {result.kept} of {result.steps} are kept: later ones are clearly worse")
    if plan.train.folds:
        began = time.perf_counter()
        note(_cross_calibrate(model, training, plan, facts, run=run, again=again, quiet=quiet))
        result.seconds += time.perf_counter() - began  # methods are compared by all that they take
    elif judges is not None and can_calibrate(judges):
        note(calibrate(model, judges, plan.train.calibration, plan.train.threshold))
    else:
        why = "not calibrated: the budget leaves no time for folds, and more --minutes do"
        note(why if hurried else uncalibrated(facts, plan, fold_count(training, MOST_FOLDS)))
    if dataset.prevalence and training.annotation.observed.any() and not (model.temperature != 1).any():
        note(
            "probabilities are for the frequencies of the annotated images, not the stated ones: nothing is calibrated"
        )
    # Folds hide annotations, but no image: for the score of foreign images there is none that was held out.
    decodes = find_objective(plan.objective.name).decodes(plan)
    reference = fit_ood(model, training.x, select(dataset.x, held), decodes)
    if reference is not None:
        model.ood = reference
        note(reference.describe())
    if run is not None and processes().is_main_process:
        about = {"steps": result.steps, "seconds": round(result.seconds, 1), "checkpoint": result.kept}
        kept = {"pixel_max": dataset.pixel_max, "feature_names": dataset.feature_names}
        run.save_model(model, {**about, **kept, "prevalence": dataset.prevalence or None})
    return Fitted(model, plan, facts, result, notes)


def judges_of(dataset: Dataset, held: NDArray[np.intp]) -> Dataset | None:
    """The held-out images with the annotations that a model is judged by, or None where none is held out."""
    return certain(dataset.rows(held)) if len(held) else None


def can_calibrate(judges: Dataset | None) -> bool:
    """Whether some label has the 30 annotations that a temperature needs."""
    return judges is not None and int(judges.annotation.observed.sum(axis=0).max()) >= LEAST_OBSERVED


def _train_once(
    dataset: Dataset,
    plan: Plan,
    facts: Facts,
    *,
    run: Run | None,
    again: bool,
    quiet: bool,
    name: str = "train",
    held: Dataset | None = None,
) -> TrainResult:
    model = build_model(dataset, plan, facts, weights=not (again and run is not None and run.has_checkpoint()))
    objective = build_objective(model, plan, facts)
    stream = build_stream(dataset, plan, objective)
    result = train(model, objective, stream, plan, run=run, resume=again, quiet=quiet, name=name, held=held)
    result.notes = objective.notes()
    result.model.learn_auxiliary(())
    maps = plan.augment.fixed_maps(facts.shape)
    # Not before: what a training looks at on the way should cost one pass.
    result.model.views = None if maps is None else maps.to(result.model.log_prior.device)
    return result


def _cross_calibrate(
    model: LabelVAE, training: Dataset, plan: Plan, facts: Facts, *, run: Run | None, again: bool, quiet: bool
) -> str:
    """Calibrate on out-of-fold logits of the plan's own training, repeated on each fold; returns the sentence."""
    settings = plan.train
    parts = deal_folds(training, settings.folds, plan.seed)

    def trained(hidden: Dataset, fold: int) -> LabelVAE:
        name = f"fold {fold + 1} of {settings.folds}"
        others = fingerprint(hidden, facts)
        return _train_once(hidden, plan, others, run=None, again=False, quiet=quiet, name=name).model

    try:
        held, logits = cross_fit(training, parts, trained, run, again)
    except TrainingError as error:
        if processes().num_processes > 1:
            raise  # the others may not have failed, and wait
        return f"not calibrated: a training with some annotations hidden failed, {error}"
    where = f"{len(held)} images, each by one of {settings.folds} more trainings that its annotations were hidden from"
    return calibrate_on(model, logits, certain(held), settings.calibration, settings.threshold, where)
