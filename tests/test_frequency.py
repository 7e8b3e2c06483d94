from __future__ import annotations

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from taut import latent
from taut.build import build_model, build_objective
from taut.data.dataset import Dataset
from taut.data.embedded import digits
from taut.data.split import draw_per_class
from taut.facts import fingerprint
from taut.fit import fit, plan_of
from taut.frequency import GATE, GATE_OF_ONE, MOMENTUM, ClassFrequencies
from taut.plan import override
from taut.rules import make_plan
from taut.tighter import TighterELBO
from tiny import SEVERAL, cells, images, some_known

UNIFORM = torch.full((3,), 1 / 3).log()


def posteriors(*frequencies: float, rows: int = 40) -> torch.Tensor:
    """Sure posteriors of so many rows in these classes."""
    index = np.repeat(np.arange(len(frequencies)), np.round(np.array(frequencies) * rows).astype(int))
    return latent.log_softmax(8 * torch.eye(len(frequencies))[torch.from_numpy(index)], (len(frequencies),))


def test_what_is_found_is_the_mean_over_the_second_half() -> None:
    found = ClassFrequencies(3, 30, 4)
    parts = [
        posteriors(*p, rows=n) for p, n in (((1, 0, 0), 10), ((1, 0, 0), 10), ((0.5, 0.5, 0), 40), ((0, 0, 1), 20))
    ]
    for step, part in enumerate(parts):
        found.watch(part, UNIFORM, step)
    torch.testing.assert_close(found.found, torch.tensor([1 / 3, 1 / 3, 1 / 3]), atol=1e-4, rtol=0)
    assert not found.contradict
    # The square of q, normalised, is what counts.
    unsure = ClassFrequencies(3, 30, 2)
    unsure.watch(torch.tensor([[0.6, 0.3, 0.1]]).log(), UNIFORM, 1)
    torch.testing.assert_close(unsure.found, torch.tensor([0.36, 0.09, 0.01]) / 0.46)


@pytest.mark.parametrize(("annotated", "contradicts"), [(3, False), (300, True)])
def test_the_fewer_annotations_the_more_may_be_found(annotated: int, contradicts: bool) -> None:
    found = ClassFrequencies(3, annotated, 2)
    found.watch(posteriors(0.5, 0.3, 0.2), UNIFORM, 1)
    distance = sum(p * np.log(3 * p) for p in (0.5, 0.3, 0.2))
    assert (distance > GATE + GATE_OF_ONE * 3 / annotated) == contradicts
    assert bool(found.contradict) == contradicts


@pytest.mark.parametrize(("sharpness", "contradicts"), [(1.0, False), (8.0, True)])
def test_the_less_a_network_knows_the_more_may_be_found(sharpness: float, contradicts: bool) -> None:
    found = ClassFrequencies(3, 30, 4)
    log_q = (sharpness * posteriors(0.5, 0.3, 0.2) / 8).log_softmax(1)
    found.watch(posteriors(0.5, 0.3, 0.2), UNIFORM, 2)
    assert found.contradict
    found.watch(log_q, UNIFORM, 3)
    assert float(found.sure) == pytest.approx(float(log_q.amax(1).exp().mean()))
    distance = float((found.found * (3 * found.found).log()).sum())
    assert distance > GATE + GATE_OF_ONE * 3 / 30
    assert bool(found.contradict) == contradicts


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_network_that_knows_the_frequencies_alone_contradicts_nothing(power: float) -> None:
    prior = torch.tensor([0.9, 0.1]).log()
    unsure = (power * prior).log_softmax(0).expand(200, 2)
    found = ClassFrequencies(2, 100, 2)
    found.watch(unsure, prior, 1)
    assert not found.contradict
    other = ClassFrequencies(2, 100, 2)
    other.watch(posteriors(0.5, 0.5), prior, 1)
    assert other.contradict


def test_where_the_prior_is_contradicted_rows_without_annotation_are_drawn_to_what_is_found() -> None:
    found = ClassFrequencies(2, 20, 2)
    targets, observed = torch.tensor([[1.0, 0], [torch.nan, torch.nan], [torch.nan, torch.nan]]), torch.arange(3) < 1
    log_half = torch.full((2,), 0.5).log()
    found.watch(posteriors(0.1, 0.9), log_half, 1)
    assert found.expected(targets, observed, observed, log_half, 1) is None
    drawn_to = found.expected(targets, observed, observed, log_half, 2)
    assert drawn_to is not None
    torch.testing.assert_close(drawn_to.exp(), torch.tensor([1 + 2 * 0.1, 2 * 0.9]) / 3, atol=1e-3, rtol=0)
    # An ignored row is none of them.
    ignored = torch.tensor([True, True, False])
    drawn_to = found.expected(targets, observed, ignored, log_half, 2)
    assert drawn_to is not None
    torch.testing.assert_close(drawn_to.exp(), torch.tensor([1 + 0.1, 0.9]) / 2, atol=1e-3, rtol=0)
    # From then on the network is followed, slowly; the verdict stays.
    found.watch(posteriors(0.5, 0.5), log_half, 2)
    torch.testing.assert_close(found.found[0], torch.tensor(0.1 + (1 - MOMENTUM) * 0.4), atol=1e-3, rtol=0)
    for step in range(3, 400):
        found.watch(posteriors(0.5, 0.5), log_half, step)
    assert bool(found.contradict)
    # Frequencies that agree with the prior are not followed.
    agrees = ClassFrequencies(2, 20, 2)
    agrees.watch(posteriors(0.5, 0.5), log_half, 1)
    agrees.watch(posteriors(0.1, 0.9), log_half, 2)
    assert agrees.expected(targets, observed, observed, log_half, 2) is None
    assert float(agrees.found[0]) == pytest.approx(0.5, abs=1e-3)
    # Without the check p(c) is that of the rows without annotation.
    trusting = ClassFrequencies(2, 20, 2, checked=False)
    trusting.watch(posteriors(0.1, 0.9), log_half, 1)
    drawn_to = trusting.expected(targets, observed, observed, torch.tensor([0.2, 0.8]).log(), 2)
    assert drawn_to is not None
    torch.testing.assert_close(drawn_to.exp(), torch.tensor([1 + 2 * 0.2, 2 * 0.8]) / 3)


def test_only_one_label_with_annotations_and_something_to_draw_is_watched() -> None:
    for data, changes, watched in (
        (images(some_known(60, 12)), {}, True),
        (images(some_known(60, 60)), {}, False),
        (images(np.full(60, -1)), {}, False),
        (images(cells(400, 0.5), SEVERAL), {}, False),
        (images(some_known(60, 12)), {"objective.onset": 0.0}, False),
        (images(some_known(60, 12)), {"objective.mutual_information": 0.0}, False),
        (images(some_known(60, 12)), {"objective.check_prior": False, "objective.onset": 0.0}, True),
    ):
        facts = fingerprint(data)
        plan = override(make_plan(facts), changes, "test")
        objective = build_objective(build_model(data, plan, facts), plan, facts)
        assert isinstance(objective, TighterELBO)
        assert (objective.frequencies is not None) == watched


def test_what_is_stated_is_not_estimated() -> None:
    data = images(some_known(60, 12))
    assert plan_of(data).objective.check_prior
    data.prevalence = {str(data.space.labels[0].classes[0]): 0.8}
    assert not plan_of(data).objective.check_prior
    change = partial(override, changes={"objective.check_prior": True}, where="test")
    assert plan_of(data, change).objective.check_prior


def unbalanced(data: Dataset, most: int) -> Dataset:
    """All images of a class, and so many of each other one."""
    index = data.annotation.targets.argmax(1)
    rows = [np.flatnonzero(index == c)[: None if c == 0 else most] for c in range(10)]
    return data.rows(np.sort(np.concatenate(rows)))


@pytest.mark.parametrize("classes", [10, 100])
def test_half_precision_contradicts_nothing(classes: int) -> None:
    log_prior = torch.full((classes,), -math.log(classes))
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        frequencies = ClassFrequencies(classes, annotated=10**6, end=4)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for step in range(2, 4):
                frequencies.watch(torch.eye(classes).mul(50).log_softmax(1), log_prior, step)
        found.append((frequencies.found.clone(), float(frequencies.contradict)))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == 0


@pytest.mark.parametrize("most", [12, 200])
def test_a_class_that_most_images_have_is_found_from_ten_annotations_of_each(most: int) -> None:
    every = unbalanced(dataclasses.replace(digits(), split=None), most)
    data = dataclasses.replace(every, annotation=draw_per_class(every, 8, 0))
    changes = {"train.steps": 160, "model.width": 8, "train.precision": "fp32"}
    fitted = fit(data, partial(override, changes=changes, where="test"), quiet=True)
    contradicted = any("do not seem to have the classes as often as p(c)" in note for note in fitted.notes)
    assert contradicted == (most == 12)
    assert any("Every class has 8 annotations" in note for note in fitted.notes)
