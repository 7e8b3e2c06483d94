"""That every decision of a plan reaches what it decides on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from taut import build
from taut.build import build_model, build_objective, build_stream
from taut.evaluate.predict import predict_logits
from taut.facts import fingerprint
from taut.fit import fit, plan_for
from taut.objective import Weights
from taut.plan import Plan, override
from taut.targets import Interpolation, Teacher
from taut.tighter import Sampling, TighterELBO, counted_marginal, dilution, onset_steps, others_share, seen_share
from tiny import SEVERAL, cells, images, some_known, tiny, vectors

DATA = images(some_known())
FACTS = fingerprint(DATA)
CHANGES: dict[str, Any] = {
    "objective.source": "teacher",
    "objective.momentum": 0.9,
    "objective.sharpen": 0.7,
    "objective.threshold": 0.6,
    "objective.alignment": 0.3,
    "objective.mix": 0.75,
    "objective.adversary": 0.2,
    "objective.reconstruction": 0.11,
    "objective.beta_z": 0.12,
    "objective.beta_c": 0.13,
    "objective.capacity_z": 0.14,
    "objective.capacity_c": 0.15,
    "objective.per": "batch",
    "objective.mutual_information": 0.16,
    "objective.marginal": 0.17,
    "objective.balance": "loss",
    "objective.sampling": "straight-through",
    "objective.temperature": 0.5,
    "objective.share": 0.4,
    "objective.consistency": 0.18,
    "objective.z_consistency": 0.19,
    "objective.auxiliary": 0.21,
    "objective.ramp": 0.25,
    "objective.onset": 0.1,
    "objective.full": 0.3,
    "train.steps": 200,
}


def planned(**changes: Any) -> Plan:
    return override(plan_for(FACTS), {**CHANGES, **changes}, "test")


def built(plan: Plan) -> TighterELBO:
    objective = build_objective(build_model(DATA, plan, FACTS), plan, FACTS)
    assert isinstance(objective, TighterELBO)
    return objective


def test_every_constant_of_the_plan_reaches_the_objective() -> None:
    plan = planned()
    objective = built(plan)
    alpha = dilution(plan.train, FACTS)
    assert alpha > 1
    assert objective.weights == Weights(
        reconstruction=0.11,
        beta_z=0.12,
        beta_c=0.13,
        alpha=alpha,
        capacity_z=0.14,
        capacity_c=0.15,
        per="batch",
        mutual_information=0.16,
        marginal=0.17,
        balanced=True,
    )
    assert objective.sampling == Sampling("straight-through", 0.5, 0.4)
    assert (objective.consistency, objective.z_consistency, objective.auxiliary) == (0.18, 0.19, 0.21)
    assert (objective.ramp, objective.onset) == (50, (20, 60))


def test_estimates_wait_for_twenty_passes_over_what_is_annotated() -> None:
    plan = planned(**{"train.batch_labelled": 3})  # 12 annotated images: 80 steps
    assert onset_steps(plan, FACTS) == (80, 120)
    plan = planned(**{"train.batch_labelled": 1})
    assert onset_steps(plan, FACTS) == (100, 140)  # half of the steps at the latest
    assert onset_steps(planned(**{"train.batch_labelled": 1, "objective.onset": 0.0}), FACTS) == (0, 60)
    several = fingerprint(images(cells(), SEVERAL))
    assert onset_steps(plan, several) == onset_steps(plan, fingerprint(vectors(some_known()))) == (20, 60)


def test_frequencies_of_few_images_a_class_count_less() -> None:
    plan = planned(**{"train.batch_labelled": 5, "train.batch_unlabelled": 25})
    assert seen_share(plan.train, FACTS) == 0.5  # 30 images of 3 classes
    assert built(plan).weights.marginal == pytest.approx(0.085)
    features = fingerprint(vectors(some_known()))
    for whole, counted in ((5.0, 2.5), (1.7, 1.0), (0.17, 0.17)):  # of vectors 1 at least, unless the plan has less
        plan.objective.marginal = whole
        assert counted_marginal(plan, FACTS) == pytest.approx(whole / 2)
        assert counted_marginal(plan, features) == pytest.approx(counted)
    assert seen_share(plan.train, fingerprint(images(cells(), SEVERAL))) == 1


def test_few_images_without_annotation_count_no_more_than_annotated_ones() -> None:
    plan = planned(**{"train.batch_labelled": 8, "train.batch_unlabelled": 2})
    assert others_share(plan.train, FACTS) == 0.25
    objective = built(plan)
    assert objective.weights.mutual_information == pytest.approx(0.04)
    assert objective.consistency == pytest.approx(0.045)
    assert objective.weights.alpha == dilution(plan.train, FACTS)  # of the annotated ones nothing is taken
    for name in ("fixmatch", "mixmatch", "mean-teacher", "pi-model", "pseudo-label", "vat"):
        rival = override(plan, {"objective.name": name, "objective.threshold": 0.0}, "test")
        model = build_model(DATA, rival, FACTS)
        method = build_objective(model, rival, FACTS)
        terms = method.loss(model, build_stream(DATA, rival, method).batch(0, model, torch.device("cpu")), 200)
        assert terms.label_kl is not None
        assert terms.consistency is not None
        weight = (terms.total - terms.label_kl).item() / terms.consistency.item()
        if name == "vat":  # whose terms are means over all rows; it adds an entropy
            assert weight > 0.18
        else:
            assert weight == pytest.approx(0.045, rel=1e-3), name
    for labelled, others in ((8, 0), (0, 2), (8, 8), (2, 8)):
        settings = planned(**{"train.batch_labelled": labelled, "train.batch_unlabelled": others}).train
        assert others_share(settings, FACTS) == 1
    assert others_share(plan.train, dataclasses.replace(FACTS, annotated_images=0)) == 1
    assert others_share(plan.train, fingerprint(images(cells(), SEVERAL))) == 1


def test_every_setting_of_the_plan_reaches_the_teacher() -> None:
    teacher = built(planned()).source
    assert isinstance(teacher, Teacher)
    assert (teacher.momentum, teacher.sharpen, teacher.threshold) == (0.9, 0.7, 0.6)
    assert (teacher.alignment, teacher.mix) == (0.3, 0.75)
    assert teacher.average is not None
    assert teacher.average.momentum == 0.9
    # A share of the distance of typical inputs from their mean.
    distance = float(np.sqrt(np.square(DATA.x / 255 - (DATA.x / 255).mean()).sum(axis=(1, 2, 3)).mean()))
    assert teacher.adversary == pytest.approx(0.2 * distance, rel=0.01)


def test_the_other_sources_and_a_weight_of_ones_own_reach_the_objective() -> None:
    source = built(planned(**{"objective.source": "interpolation", "objective.match": "random"})).source
    assert isinstance(source, Interpolation)
    assert source.match == "random"
    assert not built(planned(**{"objective.source": "none"})).source.needs_strong
    assert built(planned(**{"objective.alpha": 3.0})).weights.alpha == 3


@pytest.mark.parametrize("known", [[0] * 9 + [1] * 3 + [2] * 48])
def test_the_prior_is_empirical_or_uniform(known: list[int]) -> None:
    data = images(known)
    facts = fingerprint(data)
    priors = [
        build_model(data, override(plan_for(facts), {"objective.prior": prior}, "test"), facts).log_prior.exp()
        for prior in ("empirical", "uniform")
    ]
    torch.testing.assert_close(priors[0], torch.tensor([10.0, 4, 49]) / 63)  # one more of each class
    torch.testing.assert_close(priors[1], torch.full((3,), 1 / 3))


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("pseudo-label", {"consistency": 3, "threshold": 0}),
        ("pi-model", {"consistency": 10}),
        ("mean-teacher", {"consistency": 10, "momentum": 0.99}),
        ("vat", {"consistency": 1}),
        ("mixmatch", {"consistency": 75, "sharpen": 0.5, "mix": 0.75}),
        ("fixmatch", {"consistency": 1, "threshold": 0.95}),
        ("freematch", {"consistency": 1}),
        ("m2", {"alpha": 0.1, "reconstruction": 1, "beta_z": 1, "source": "none", "mutual_information": 0}),
        ("m1m2", {"alpha": 0.1, "reconstruction": 1, "beta_z": 1, "source": "none", "mutual_information": 0}),
        ("siddharth", {"alpha": 50, "reconstruction": 1, "beta_z": 1, "source": "none", "mutual_information": 0}),
        (
            "shot-vae",
            {"reconstruction": 1e-3, "beta_z": 1e-6, "beta_c": 1e-6, "capacity_z": 0, "capacity_c": 1, "per": "batch"},
        ),
        ("vae", {"alpha": 0, "reconstruction": 1, "beta_z": 1, "beta_c": 0, "capacity_z": 0, "capacity_c": 0}),
    ],
)
def test_the_constants_of_the_docstrings_are_planned(name: str, constants: dict[str, Any]) -> None:
    plan = plan_for(FACTS, objective=name).objective
    assert {key: getattr(plan, key) for key in constants} == constants


@pytest.mark.parametrize("make", [images, vectors])
def test_the_vae_without_labels_knows_their_frequencies_alone(make: Any) -> None:
    """Its q(c|x) is p(c), so that c tells the decoder nothing and eq. 11 is the usual bound."""
    data = make([0] * 9 + [1] * 3 + [-1] * 48)
    fitted = fit(data, tiny(), quiet=True, objective="vae")
    log_q = torch.from_numpy(predict_logits(fitted.model, data.x).numpy()).log_softmax(1)
    torch.testing.assert_close(log_q, fitted.model.log_prior.expand(len(data.x), -1))
    assert len(set(fitted.model.log_prior.tolist())) == 3


def test_processes_draw_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = override(plan_for(FACTS), {"train.batch_labelled": 4, "train.batch_unlabelled": 8}, "test")
    objective = built(plan)
    alone = [build_stream(DATA, plan, objective).rows(step).tolist() for step in range(4)]
    together = []
    for index in (0, 1):

        class State:
            process_index, num_processes = index, 2

        monkeypatch.setattr(build, "processes", State)
        together.append([build_stream(DATA, plan, objective).rows(step).tolist() for step in range(2)])
    assert [together[0][0], together[1][0], together[0][1], together[1][1]] == alone
