"""A time budget: what a step and a look take here, and how many of them fit."""

from __future__ import annotations

import copy
import math
import time

import numpy as np
from accelerate.utils import broadcast_object_list

from taut.build import build_model, build_objective, build_stream
from taut.data.dataset import DataError, Dataset
from taut.facts import Facts
from taut.looks import MOST_JUDGES, Looks, can_judge
from taut.plan import Plan
from taut.rules import LEARNT, is_finished
from taut.tighter import onset_steps
from taut.train import processes, train

MEASURED_STEPS, LEAST_STEPS, LEAST_SHARED = 20, 20, 100
FIRST_STEPS = 6  # that say whether so many can be measured
MOST_FOR_MEASURING = 0.05  # of a time budget
JUDGES = 300  # held-out images on which a look is timed
MOST_FOR_LOOKS = 1 / 3  # of a time budget
FEWEST_OTHERS = 4  # images without annotation in a batch, where time is short
FIRST_PASSES, MOST_FIRST = 50, 200_000  # over what is annotated, up to so many images in all, which come first
MOST_TIMES, USUAL_STEPS = 20, 500  # a budget's steps over the plan's, or over these, where nothing says when to stop
RESERVE = 0.9  # share of a time budget for steps and looks; the rest is start-up, calibration and a noisy machine


def step_seconds(
    dataset: Dataset, plan: Plan, facts: Facts, most: float = math.inf, total: float | None = None
) -> float:
    """The mean time of a training's steps, measured on copies that are thrown away.

    Steps before estimates count are cheaper than the others: each kind is measured by itself, and counts as often as a
    training has it.
    most: seconds that measuring should take; where steps are slow, only six are measured.  total: seconds that all
    steps should take; by default there are as many as the plan says.
    """
    early = _measured(dataset, plan, facts, FIRST_STEPS, onset=1.0)
    count = MEASURED_STEPS if early * MEASURED_STEPS <= most else FIRST_STEPS
    late = _measured(dataset, plan, facts, count, onset=0.0)
    whole = copy.deepcopy(plan)
    if total is not None:
        whole.train.steps = max(LEAST_STEPS, int(total / late))
    share = onset_steps(whole, facts)[0] / whole.train.steps
    return share * min(early, late) + (1 - share) * late


def _measured(dataset: Dataset, plan: Plan, facts: Facts, steps: int, onset: float) -> float:
    """The time of a step of a training of so many, all before (1) or after (0) the onset of estimates."""
    short = copy.deepcopy(plan)
    short.train.steps, short.objective.onset, short.objective.full = steps, onset, onset
    model = build_model(dataset, short, facts)
    objective = build_objective(model, short, facts)
    found = train(model, objective, build_stream(dataset, short, objective), short, quiet=True).step_seconds
    return float(broadcast_object_list([found])[0])  # all processes must go on, or none


def look_seconds(dataset: Dataset, held: Dataset, plan: Plan, facts: Facts) -> float:
    """The time of a look at held-out images, scaled from a few hundred of them; 0 where the plan has no looks."""
    judges = np.flatnonzero(held.annotation.observed.any(axis=1))
    if not plan.train.looks or not can_judge(held):
        return 0.0
    model = build_model(dataset, plan, facts).to(processes().device)
    looks = Looks(model, held.rows(judges[:JUDGES]), 1).to(processes().device)
    times = []
    for step in (1, 2):  # the first one also warms up
        began = time.perf_counter()
        looks.look(model, step)
        times.append(time.perf_counter() - began)
    return min(times) * min(len(judges), MOST_JUDGES) / len(looks.held)


def fit_to_budget(
    dataset: Dataset,
    plan: Plan,
    facts: Facts,
    minutes: float,
    held: Dataset | None = None,
    chosen: bool = False,
) -> str:
    """Set the plan's number of steps to what fits into a time budget; returns the sentence that says so.

    held: the images that looks judge by; there are only so many looks as fit into a third of the budget.
    chosen: whether somebody chose how many images without annotation are in a batch; if not, see `affordable`.
    All trainings of a plan with folds share the budget alike; where that leaves fewer than 100 steps for each, there
    are no folds. Where no held-out image judges, there are at most 20 times as many steps as the plan has, or 10,000.
    Raises DataError for a budget that is not positive.
    """
    check_budget(minutes)
    # All processes must take the same number of steps: the first one's measurement counts.
    began, quick = time.perf_counter(), MOST_FOR_MEASURING * 60 * minutes
    look = 0.0 if held is None else look_seconds(dataset, held, plan, facts)
    seconds = RESERVE * 60 * minutes / (1 + plan.train.folds)
    step = step_seconds(dataset, plan, facts, quick, seconds)
    # Of measuring the reserve is for what was meant; the rest is taken from the steps.
    others = plan.train.batch_unlabelled if chosen else affordable(plan, facts, seconds, step)
    others = broadcast_object_list([others])[0]
    fewer = others < plan.train.batch_unlabelled
    if fewer:
        plan.train.batch_unlabelled = others
        step = step_seconds(dataset, plan, facts, quick, seconds)
    slow = max(0.0, time.perf_counter() - began - quick)
    seconds, look, slow = broadcast_object_list([step, look, slow])
    total, measured = max(0.0, RESERVE * 60 * minutes - slow), f"a step takes {1000 * seconds:.1f} ms here"
    if fewer:
        measured += f" with {plan.train.batch_unlabelled} images without annotation, for more of which time is short"
    if plan.train.looks * look > MOST_FOR_LOOKS * total:
        fewer = int(MOST_FOR_LOOKS * total / look)
        measured += f" and a look {1000 * look:.0f} ms, of which {fewer} in place of {plan.train.looks} are taken"
        plan.train.looks = fewer
    fitting = int((total - plan.train.looks * look) / seconds)
    judged = held is not None and can_judge(held) and plan.train.looks
    most = math.inf if judged else MOST_TIMES * max(plan.train.steps, USUAL_STEPS)
    measured += ", so that"
    budget = f"{RESERVE:.0%} of {minutes:g} minutes" + (f" less {slow:.0f} s of measuring" if slow >= 1 else "")
    trainings = 1 + plan.train.folds
    if fitting // trainings > most:
        plan.train.steps = int(most)
        each = f" in each of {trainings} trainings" if trainings > 1 else ""
        return (
            f"{measured} {fitting} steps fit into {budget}; {most} are taken{each}, the most where no held-out image "
            "would tell when to stop"
        )
    if trainings > 1 and fitting // trainings >= LEAST_SHARED:
        plan.train.steps = fitting // trainings
        return (
            f"{measured} {trainings} trainings of {plan.train.steps} steps fit into {budget}, one to keep and "
            f"{plan.train.folds} to calibrate on; the schedules are fitted to them"
        )
    plan.train.folds, plan.train.steps = 0, max(LEAST_STEPS, fitting)
    if fitting < LEAST_STEPS:
        return f"{measured} only {fitting} steps fit into {budget}; {LEAST_STEPS} are taken all the same, the least"
    alone = f", too few to share with {trainings - 1} folds" if trainings > 1 else ""
    return f"{measured} {fitting} steps fit into {budget}{alone}; the schedules are fitted to them"


def check_budget(minutes: float | None) -> None:
    """DataError for a time budget that is not positive, or without end."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise DataError(f"--minutes {minutes:g} is not a positive number")


def affordable(plan: Plan, facts: Facts, total: float, step: float) -> int:
    """How many images without annotation a batch can have where a training may take so many seconds.

    Of one label: as many as leave time for 50 passes over the annotated images (fewer over more than 4,000 of them, but
    30), without which more of them teach nothing. Of 4,000 annotated images of CIFAR-10 256 others left 4 passes in 1.2
    minutes and an error of 53 %, 64 left 12 and 44 %, 16 left 20 and 41 %; cross-entropy had 40 %. In 4 minutes 152
    left 25 passes and 37.4 %, 64 left 53 and 35.5 %, 32 left 55 and 35.6 %; cross-entropy had 38.9 %. Of 1,000 of MNIST
    in one minute 207 left 24 and 1.47 %, 124 left 37 and 1.33 % (one draw each). Since `others_share`, with which
    these were not measured, fewer than the annotated ones count less: of the 4,000 in 1.2 minutes 32 left 40.3 %, 16
    39.1 and 4, which this takes, 38.5; cross-entropy had 40.2.
    total, step: seconds for all steps, and of one with the plan's batches.
    """
    labelled, others = plan.train.batch_labelled, plan.train.batch_unlabelled
    if facts.labels > 1 or not facts.is_image or not labelled or not others or is_finished(facts):
        return others
    shown = max(LEARNT * facts.annotated_images, min(FIRST_PASSES * facts.annotated_images, MOST_FIRST))
    affords = total / math.ceil(shown / (labelled * plan.train.accumulate))
    # A step takes time by the rows that it encodes: an image without annotation is two views.
    rows = (labelled + 2 * others) * affords / step
    return min(others, max(FEWEST_OTHERS, int((rows - labelled) / 2)))


def expected_time(dataset: Dataset, plan: Plan, facts: Facts, held: Dataset | None = None) -> str:
    """The sentence that says what the plan's trainings would take here, by a few steps that are thrown away."""
    seconds = step_seconds(dataset, plan, facts, most=0.0)
    look = 0.0 if held is None else look_seconds(dataset, held, plan, facts)
    trainings = 1 + plan.train.folds
    minutes = trainings * (plan.train.steps * seconds + plan.train.looks * look) / 60
    several = f"{trainings} trainings of {plan.train.steps} steps" if trainings > 1 else f"{plan.train.steps} steps"
    took = f"{minutes:.1f} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"
    return f"a step takes {1000 * seconds:.1f} ms here: {several} take about {took}"
