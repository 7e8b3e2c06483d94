"""The rivals: each formula against plain torch, what they have in common, and that every objective learns."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.rivals import WITHOUT_LABELS
from torch import Tensor, nn
from torch.nn import functional as F

from taut import latent
from taut.adversary import frozen_statistics
from taut.baselines import DEFAULT, OBJECTIVES, find_objective, mixmatch
from taut.baselines.base import annotated_term, sigmoid_ramp, squared_distance
from taut.build import build_model
from taut.data.dataset import Dataset
from taut.data.embedded import digits
from taut.data.split import hide
from taut.data.stream import Stream
from taut.evaluate.metrics import evaluate
from taut.evaluate.predict import predict_logits
from taut.facts import Facts
from taut.fit import fit, plan_for, resume
from taut.labels import Annotation, LabelSpace
from taut.latent import Sizes
from taut.nn import Architecture, LabelVAE, Posterior
from taut.objective import Batch
from taut.plan import Plan, override
from taut.run import Run
from tiny import cells, equal, images, made, some_known, tiny, vectors

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES, STEPS = 6, 100
ONE, SEVERAL = (10,), (2, 2, 2)
REGULARISED = [
    "supervised", "pseudo-label", "pi-model", "mean-teacher", "vat", "mixmatch", "fixmatch", "freematch"
]  # fmt: skip


class Linear(nn.Module):
    """Logits of labels as a linear function of features, in double precision."""

    def __init__(self, sizes: Sizes, scale: float = 2.0) -> None:
        super().__init__()
        self.sizes = sizes
        self.weight = nn.Parameter(scale * torch.randn(FEATURES, sum(sizes), dtype=torch.float64))

    def encode(self, x: Tensor) -> Posterior:
        return Posterior(x[:, :1], x[:, :1], x @ self.weight)

    def classify(self, x: Tensor) -> Tensor:
        return self.encode(x).logits


def facts_of(sizes: Sizes, shape: tuple[int, ...] = (FEATURES,), std: float = 1.0) -> Facts:
    known, channels = (10,) * len(sizes), shape[0]
    return Facts(60, shape, len(sizes), sizes, 20, 5, known, known, False, (0.0,) * channels, (std,) * channels)


def make(name: str, model: Any, shape: tuple[int, ...] = (FEATURES,), std: float = 1.0, **changes: Any) -> Any:
    """A method with its own plan, but for some changes of the objective's section."""
    facts = facts_of(model.sizes, shape, std)
    plan = copy.deepcopy(planned(facts, name))
    plan.train.steps = STEPS
    plan.objective = dataclasses.replace(plan.objective, **changes)
    return find_objective(name).from_plan(model, plan, facts)


@cache
def planned(facts: Facts, name: str) -> Plan:
    """Plans are the same for the same facts, and changing them is slow."""
    return plan_for(facts, objective=name)


def one_label() -> tuple[Batch, Tensor]:
    """Four annotated images, five without annotation and their second views; and the classes of the four."""
    x, y = torch.randn(9, FEATURES, dtype=torch.float64), torch.tensor([3, 0, 9, 3])
    targets = torch.full((9, 10), math.nan, dtype=torch.float64)
    targets[:4] = F.one_hot(y, 10)
    observed = (torch.arange(9) < 4)[:, None]
    return Batch(x, targets, observed, x[4:] + 0.3 * torch.randn_like(x[4:])), y


def several_labels() -> tuple[Batch, Tensor]:
    """Two images annotated in full, four in part, two not at all; the last six have second views. And yes or no."""
    x, yes = torch.randn(8, FEATURES, dtype=torch.float64), (torch.rand(8, 3) < 0.5).double()
    observed = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    observed = observed.bool()
    targets = torch.stack([1 - yes, yes], dim=2).flatten(1)
    targets = torch.where(observed.repeat_interleave(2, dim=1), targets, math.nan)
    return Batch(x, targets, observed, x[2:] + 0.3 * torch.randn_like(x[2:])), yes


def second_of(batch: Batch) -> Tensor:
    """The second views of a batch that has some."""
    assert batch.second is not None
    return batch.second


def yes_of(logits: Tensor) -> Tensor:
    """The probabilities of "yes", [N, k], from pairs of logits."""
    return (logits[:, 1::2] - logits[:, ::2]).sigmoid()


def bce(logits: Tensor, yes: Tensor, counts: Tensor) -> Tensor:
    """The sum of the binary cross-entropies of the cells that count."""
    return F.binary_cross_entropy(yes_of(logits), yes, reduction="none")[counts].sum()


def total(method: Any, model: Any, batch: Batch, step: int = 0) -> Tensor:
    """The loss, after a look at the parts that are reported."""
    terms = method.loss(model, batch, step)
    assert all(bool(value.isfinite()) for value in terms.present().values())
    value: Tensor = terms.total
    assert value.requires_grad
    return value


# --- what they share ----------------------------------------------------------------------------------------


def test_the_annotated_term_is_cross_entropy() -> None:
    logits, y = torch.randn(9, 10), torch.tensor([3, 0, 9, 3])
    batch, _ = one_label()
    torch.testing.assert_close(annotated_term(logits, batch, ONE), F.cross_entropy(logits[:4], y))
    batch, yes = several_labels()
    logits = torch.randn(8, 6).double()
    want = bce(logits, yes, batch.observed) / 6  # six images carry an annotation
    torch.testing.assert_close(annotated_term(logits, batch, SEVERAL), want)
    nothing = Batch(batch.x, batch.targets, torch.zeros(8, 3, dtype=torch.bool))
    assert annotated_term(logits, nothing, SEVERAL) == 0


def test_soft_annotations_count_less_their_entropy() -> None:
    p, logits = torch.rand(5, 3).softmax(1), torch.randn(5, 3)
    log_q = logits.log_softmax(1)
    want = F.kl_div(log_q, p, reduction="none").sum(1, keepdim=True)
    torch.testing.assert_close(latent.counted_kl(p, log_q, torch.ones(5, 1), (3,)), want)
    half = torch.full((5, 1), 0.5)
    torch.testing.assert_close(latent.counted_kl(p, log_q, half, (3,)), 0.5 * want)


@pytest.mark.parametrize("filling", [math.nan, math.inf, 0.0, 1.0])
def test_unobserved_labels_have_no_gradient_at_all(filling: float) -> None:
    batch, _ = several_labels()
    seen = batch.observed.repeat_interleave(2, dim=1)
    batch.targets = torch.where(seen, batch.targets, filling)
    logits = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(annotated_term(logits, batch, SEVERAL))
    assert logits.grad is not None
    assert bool((logits.grad[~seen] == 0).all())
    assert bool((logits.grad[seen] != 0).all())


def test_the_squared_distance_is_a_mean_over_the_classes() -> None:
    p, q = torch.randn(5, 10).softmax(1), torch.randn(5, 10).softmax(1)
    torch.testing.assert_close(squared_distance(p, q, ONE).mean(), F.mse_loss(p, q))
    mixed = squared_distance(torch.tensor([[1.0, 0, 1, 0, 0]]), torch.tensor([[0.5, 0.5, 0, 1, 0]]), (2, 3))
    torch.testing.assert_close(mixed, torch.tensor([[0.25, 2 / 3]]))


def test_the_sigmoid_ramp_at_its_ends() -> None:
    assert sigmoid_ramp(0.0) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(0.5) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(1.0) == sigmoid_ramp(7.0) == 1


def weight_at(name: str, step: int) -> float:
    """The weight of what is not annotated: the total less the supervised term, over the consistency term."""
    torch.manual_seed(0)
    model = Linear(ONE)
    batch, _ = one_label()
    method = make(name, model)
    terms = method.loss(model, batch, step)
    return float((terms.total.detach() - terms.label_kl) / terms.consistency)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("pseudo-label", {0: 0, 10: 0, 35: 1.5, 60: 3, 99: 3}),
        ("pi-model", {0: 10 * math.exp(-5), 27: 10, 99: 10}),
        ("mixmatch", {0: 0, 50: 37.5, 100: 75}),
        ("fixmatch", {0: 1, 99: 1}),
    ],
)
def test_weights_rise_over_the_training(name: str, weights: dict[int, float]) -> None:
    for step, want in weights.items():
        assert weight_at(name, step) == pytest.approx(want, abs=1e-9)


def test_the_weight_of_the_mean_teacher_rises() -> None:
    """Its distance is 0 before it has fallen behind, so that a step of the student comes first."""
    for step, want in {0: 10 * math.exp(-5), 40: 10, 99: 10}.items():
        model = Linear(ONE)
        batch, _ = one_label()
        method = make("mean-teacher", model)
        moved(model)
        terms = method.loss(model, batch, step)
        assert float((terms.total.detach() - terms.label_kl) / terms.consistency) == pytest.approx(want)


@pytest.mark.parametrize("name", REGULARISED)
def test_without_second_views_there_is_supervision(name: str) -> None:
    """Batches of annotated images alone: what is left is the cross-entropy, but for methods that need no view."""
    model = Linear(ONE)
    batch, y = one_label()
    batch = Batch(batch.x[:4], batch.targets[:4], batch.observed[:4])
    want = F.cross_entropy(model.classify(batch.x), y)
    got = total(make(name, model), model, batch, STEPS)
    if name == "vat":
        assert bool(got > want)  # perturbations of annotated images too
    else:
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", REGULARISED)
@pytest.mark.parametrize("several", [False, True])
def test_hidden_targets_reach_neither_loss_nor_gradient(several: bool, name: str) -> None:
    batch, _ = several_labels() if several else one_label()
    untrained = Linear(SEVERAL if several else ONE)
    seen = latent.spread_labels(batch.observed, untrained.sizes)
    results = []
    for filling in (math.nan, 0.0, 1.0, math.inf):
        model = copy.deepcopy(untrained)
        method = make(name, model)
        torch.manual_seed(7)
        shown = dataclasses.replace(batch, targets=torch.where(seen, batch.targets, filling))
        value = total(method, model, shown, 50)
        torch.autograd.backward(value)
        assert model.weight.grad is not None
        results.append((value, model.weight.grad))
    for value, gradient in results:
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("name", REGULARISED)
def test_sure_and_wrong_predictions_give_no_nan(name: str) -> None:
    model = Linear(SEVERAL, scale=1e4)
    batch, _ = several_labels()
    torch.autograd.backward(total(make(name, model), model, batch, 50))
    assert model.weight.grad is not None
    assert bool(model.weight.grad.isfinite().all())


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'nothing' is not one of tighter-elbo, supervised, .*, joint-vae"):
        find_objective("nothing")
    assert find_objective(DEFAULT) is OBJECTIVES[DEFAULT]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_plan_names_its_method_and_has_its_settings(name: str) -> None:
    facts = facts_of(SEVERAL)
    plan = plan_for(facts, 3, name)
    assert (plan.objective.name, plan.seed) == (name, 3)
    for field, value in find_objective(name).plan_for(facts).items():
        section, _, key = field.partition(".")
        assert getattr(getattr(plan, section), key) == value


def test_only_methods_that_trust_their_guesses_at_once_rise_early() -> None:
    image = (1, 8, 8)
    early = {name for name in OBJECTIVES if plan_for(facts_of(ONE, image), objective=name).train.warmup == 0.02}
    assert early == {*REGULARISED, "shot-vae"}
    usual = plan_for(facts_of(SEVERAL, image)).train.warmup
    assert {plan_for(facts_of(SEVERAL, image), objective=name).train.warmup for name in OBJECTIVES} == {usual}


# --- supervised ---------------------------------------------------------------------------------------------


def test_supervised_sees_annotations_only() -> None:
    model = Linear(ONE)
    batch, y = one_label()
    want = F.cross_entropy(model.classify(batch.x[:4]), y)
    torch.testing.assert_close(total(make("supervised", model), model, batch), want)


def test_supervised_shows_strong_views_of_what_is_annotated() -> None:
    model = Linear(SEVERAL)
    batch, yes = several_labels()
    weak, strong = model.classify(batch.x), model.classify(second_of(batch))
    # Four of the six images with a strong view carry an annotation.
    want = bce(weak, yes, batch.observed) / 6 + bce(strong, yes[2:], batch.observed[2:]) / 4
    torch.testing.assert_close(total(make("supervised", model), model, batch), want)


def test_supervised_shows_strong_views_where_taut_does() -> None:
    model = Linear(SEVERAL)
    assert make("supervised", model).second_view == "strong"
    # Without estimates taut's own method sees weak views alone, in half the time.
    assert make("supervised", model, source="none").second_view == "none"


def test_supervised_takes_no_images_without_annotation() -> None:
    kind = OBJECTIVES["supervised"]
    complete = dataclasses.replace(facts_of(ONE), annotated_images=20, fully_annotated_images=20)
    assert kind.plan_for(complete) == {"train.batch_unlabelled": 0}
    assert kind.plan_for(facts_of(SEVERAL)) == {"train.unannotated": 0.0}
    assert kind.plan_for(dataclasses.replace(complete, annotated_images=0, fully_annotated_images=0)) == {}


# --- pseudo-label -------------------------------------------------------------------------------------------


def test_pseudo_label_is_its_formula() -> None:
    model = Linear(ONE)
    batch, y = one_label()
    logits = model.classify(batch.x)
    want = F.cross_entropy(logits[:4], y) + 1.5 * F.cross_entropy(logits[4:], logits[4:].argmax(1))
    torch.testing.assert_close(total(make("pseudo-label", model), model, batch, 35), want)


def test_pseudo_labels_are_given_cell_by_cell() -> None:
    model = Linear(SEVERAL)
    batch, yes = several_labels()
    logits = model.classify(batch.x)
    guess = (yes_of(logits) > 0.5).double().detach()
    # Six images have a cell that is not annotated.
    want = bce(logits, yes, batch.observed) / 6 + 3 * bce(logits, guess, ~batch.observed) / 6
    torch.testing.assert_close(total(make("pseudo-label", model), model, batch, 80), want)


def test_pseudo_labels_below_a_threshold_do_not_count() -> None:
    model = Linear(ONE, scale=0.5)
    batch, y = one_label()
    logits = model.classify(batch.x)
    q = logits[4:].softmax(1)
    threshold = float(q.detach().max(1).values.sort().values[1:3].mean())
    kept = q.max(1).values >= threshold
    assert kept.sum() == 3
    loss = F.cross_entropy(logits[4:], q.argmax(1), reduction="none")
    want = F.cross_entropy(logits[:4], y) + 3 * loss[kept].sum() / 5
    method = make("pseudo-label", model, threshold=threshold)
    torch.testing.assert_close(total(method, model, batch, 80), want)
    confidence = method.loss(model, batch, 80).confidence
    assert float(confidence) == pytest.approx(3 / 9)


# --- two views ----------------------------------------------------------------------------------------------


def moved(model: Linear) -> None:
    """A step of the student."""
    with torch.no_grad():
        model.weight.add_(torch.randn_like(model.weight))


def test_the_pi_model_is_its_formula() -> None:
    model = Linear(ONE)
    batch, y = one_label()
    logits, second = model.classify(batch.x), model.classify(second_of(batch)).softmax(1)
    weight = 10 * math.exp(-5 * (1 - 9 / 27) ** 2)
    want = F.cross_entropy(logits[:4], y) + weight * F.mse_loss(logits[4:].softmax(1), second)
    method = make("pi-model", model)
    assert method.second_view == "weak"
    torch.testing.assert_close(total(method, model, batch, 9), want)
    # Laine 2017 has a gradient through both views.
    views = [batch.x.requires_grad_(), second_of(batch).requires_grad_()]
    weak, second = torch.autograd.grad(method.loss(model, batch, 27).total, views)
    assert bool(weak[4:].any())
    assert bool(second.any())


def test_the_pi_model_with_several_labels() -> None:
    model = Linear(SEVERAL)
    batch, yes = several_labels()
    logits, second = model.classify(batch.x), yes_of(model.classify(second_of(batch)))
    # Each yes/no label has two classes with the same square, so that its mean over them is one of them.
    distance = 3 * F.mse_loss(yes_of(logits)[2:], second)
    want = bce(logits, yes, batch.observed) / 6 + 10 * distance
    torch.testing.assert_close(total(make("pi-model", model), model, batch, 80), want)


@pytest.mark.parametrize("several", [False, True])
def test_the_mean_teacher_follows_and_teaches(several: bool) -> None:
    model = Linear(SEVERAL if several else ONE)
    batch, y = several_labels() if several else one_label()
    method = make("mean-teacher", model)
    assert method.second_view == "weak"
    assert not any(p.requires_grad for p in method.parameters())
    average = model.weight.detach().clone()
    # Those after the start, in which it follows faster.
    method.teacher.set_extra_state(torch.tensor(100))
    for step in (40, 41):
        moved(model)
        average = 0.99 * average + 0.01 * model.weight.detach()
        logits, taught = model.classify(batch.x), second_of(batch) @ average
        if several:
            distance = 3 * F.mse_loss(yes_of(logits)[2:], yes_of(taught))
            want = bce(logits, y, batch.observed) / 6 + 10 * distance
        else:
            distance = F.mse_loss(logits[4:].softmax(1), taught.softmax(1))
            want = F.cross_entropy(logits[:4], y) + 10 * distance
        torch.testing.assert_close(total(method, model, batch, step), want)
        torch.testing.assert_close(method.teacher.model.weight, average)


@pytest.mark.parametrize("name", ["mean-teacher", "tighter-elbo"])
def test_a_teacher_follows_once_a_step_where_gradients_are_accumulated(name: str) -> None:
    facts = facts_of(ONE)
    plan = plan_for(facts, objective=name)
    plan.objective.source, plan.objective.momentum, plan.train.accumulate = "teacher", 0.99, 4
    method: Any = find_objective(name).from_plan(Linear(ONE), plan, facts)
    average = method.teacher if name == "mean-teacher" else method.source.average
    assert (average.momentum, average.parts) == (0.99, 4)


def test_the_teacher_of_a_new_training_is_the_student() -> None:
    model = Linear(ONE)
    batch, y = one_label()
    method = make("mean-teacher", model)
    batch.second = batch.x[4:]
    torch.testing.assert_close(total(method, model, batch, 99), F.cross_entropy(model.classify(batch.x[:4]), y))


# --- VAT ----------------------------------------------------------------------------------------------------


def test_vat_compares_passes_that_drop_the_same_units() -> None:
    class Dropping(Linear):
        def __init__(self, sizes: Sizes) -> None:
            super().__init__(sizes)
            self.dropout = nn.Dropout(0.5)

        def classify(self, x: Tensor) -> Tensor:
            return super().classify(self.dropout(x))

    model = Dropping((2,))
    method = make("vat", model)
    x = torch.randn(8, FEATURES, dtype=torch.float64)
    batch = Batch(x, torch.full((8, 2), math.nan), torch.zeros(8, 1, dtype=torch.bool))
    method.epsilon = 0.0
    assert float(method.loss(model, batch, 0).consistency) == pytest.approx(0, abs=1e-12)
    assert model.dropout.training
    assert not torch.equal(model.classify(x), model.classify(x))


@pytest.mark.parametrize("several", [False, True])
def test_vat_is_its_formula(several: bool) -> None:
    model = Linear(SEVERAL if several else ONE, scale=0.7)
    batch, y = several_labels() if several else one_label()
    x, logits = batch.x, model.classify(batch.x)

    def divergence(r: Tensor) -> Tensor:
        """KL between the posteriors of x and x + r, summed over the labels."""
        other = model.classify(x + r)
        if several:
            p, q = yes_of(logits.detach()), yes_of(other)
            return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1).mean()
        return F.kl_div(other.log_softmax(1), logits.detach().softmax(1), reduction="batchmean")

    torch.manual_seed(3)
    probe = torch.randn_like(x)
    probe = (0.01 * probe / probe.norm(dim=1, keepdim=True)).requires_grad_()
    (direction,) = torch.autograd.grad(divergence(probe), probe)
    epsilon = 0.25 * math.sqrt(FEATURES)
    change = divergence(epsilon * direction / direction.norm(dim=1, keepdim=True))
    if several:
        p = yes_of(logits)
        entropy = F.binary_cross_entropy(p, p, reduction="none").sum(1).mean()
        supervised = bce(logits, y, batch.observed) / 6
    else:
        entropy = F.cross_entropy(logits, logits.softmax(1))
        supervised = F.cross_entropy(logits[:4], y)
    torch.manual_seed(3)
    got = total(make("vat", model, consistency=1.7), model, batch)
    torch.testing.assert_close(got, supervised + 1.7 * (change + entropy))
    (gradient,) = torch.autograd.grad(got, model.weight)
    (wanted,) = torch.autograd.grad(supervised + 1.7 * (change + entropy), model.weight)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize(
    ("shape", "std", "want"), [((1, 28, 28), 0.3081, 2.157), ((3, 4, 4), 0.5, 0.866), ((9,), 7.0, 0.75)]
)
def test_the_length_of_the_perturbation(shape: tuple[int, ...], std: float, want: float) -> None:
    model = Linear(ONE)
    assert make("vat", model, shape, std).epsilon == pytest.approx(want, rel=1e-3)


def test_a_virtual_adversary_changes_more_than_chance() -> None:
    class Images(nn.Module):
        """A small net on images."""

        sizes = (2, 3)

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 5)).double()

        def classify(self, x: Tensor) -> Tensor:
            logits: Tensor = 4 * self.net(x)
            return logits

    model = Images()
    method = make("vat", model, (1, 8, 8), 0.3)
    assert method.epsilon == pytest.approx(0.25 * 0.3 * 8)
    x = torch.rand(200, 1, 8, 8).double()
    log_q = latent.log_softmax(model.classify(x), model.sizes).detach()
    batch = Batch(x, torch.zeros(200, 5), torch.zeros(200, 2, dtype=torch.bool))
    r = method.direction(model, batch, log_q)
    torch.testing.assert_close(r.flatten(1).norm(dim=1), torch.full((200,), method.epsilon).double())
    assert not r.requires_grad
    assert all(p.grad is None for p in model.parameters())
    changed = method.divergence(model, batch, log_q, r)
    for _ in range(3):
        chance = torch.randn_like(x)
        chance *= method.epsilon / chance.flatten(1).norm(dim=1)[:, None, None, None]
        assert bool(changed > 3 * method.divergence(model, batch, log_q, chance))


def test_perturbed_images_leave_running_statistics_alone() -> None:
    space = LabelSpace.multiclass(3)
    model = LabelVAE(space, Architecture((1, 8, 8), width=4, z_dim=2)).train()
    once = copy.deepcopy(model)
    x = torch.rand(12, 1, 8, 8)
    batch = Batch(x, torch.full((12, 3), math.nan), torch.zeros(12, 1, dtype=torch.bool))
    method = make("vat", model, (1, 8, 8), 0.3)
    torch.autograd.backward(method.loss(model, batch, 0).total)
    once.classify(x)
    statistics = [name for name in once.state_dict() if "running" in name or "num_batches" in name]
    assert len(statistics) >= 3
    for name in statistics:
        assert torch.equal(model.state_dict()[name], once.state_dict()[name]), name
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    with contextlib.suppress(RuntimeError), frozen_statistics(model):
        assert not any(norm.track_running_stats for norm in norms)
        raise RuntimeError
    assert all(norm.track_running_stats for norm in norms)


def test_norms_without_running_statistics_stay_without() -> None:
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    with frozen_statistics(norm):
        pass
    assert not norm.track_running_stats


# --- MixMatch -----------------------------------------------------------------------------------------------


def fixed_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is mixed with the one opposite, with shares from 1/2 to 1."""

    def mixed(x: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        assert beta == 0.75
        partner, share = torch.arange(len(x)).flip(0), torch.linspace(0.5, 1, len(x), dtype=x.dtype)
        return share[:, None] * x + (1 - share[:, None]) * x[partner], partner, share

    monkeypatch.setattr(mixmatch, "mixed", mixed)


def mix(x: Tensor) -> Tensor:
    share = torch.linspace(0.5, 1, len(x), dtype=x.dtype)[:, None]
    return share * x + (1 - share) * x.flip(0)


def test_mixmatch_is_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_mixture(monkeypatch)
    model = Linear(ONE)
    batch, y = one_label()
    with torch.no_grad():
        guess = 0.5 * (model.classify(batch.x[4:]).softmax(1) + model.classify(second_of(batch)).softmax(1))
        guess = guess**2 / (guess**2).sum(1, keepdim=True)
    labels = mix(torch.cat([F.one_hot(y, 10), guess, guess]))
    logits = model.classify(mix(torch.cat([batch.x, second_of(batch)])))
    # The cross-entropy less the entropy of the mixed labels, which is a constant.
    supervised = F.kl_div(logits[:4].log_softmax(1), labels[:4], reduction="batchmean")
    distance = F.mse_loss(logits[4:].softmax(1), labels[4:])
    method = make("mixmatch", model)
    assert method.second_view == "weak"
    got, want = total(method, model, batch, 40), supervised + 30 * distance
    torch.testing.assert_close(got, want)
    # The guess is a target, and has no gradient.
    (gradient,), (wanted,) = (torch.autograd.grad(value, model.weight) for value in (got, want))
    torch.testing.assert_close(gradient, wanted)


def test_mixmatch_with_several_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_mixture(monkeypatch)
    model = Linear(SEVERAL)
    batch, yes = several_labels()
    with torch.no_grad():
        p, again = yes_of(model.classify(batch.x)), yes_of(model.classify(second_of(batch)))
        mean = torch.cat([p[:2], 0.5 * (p[2:] + again)])
        guess = mean**2 / (mean**2 + (1 - mean) ** 2)
    labels, observed = torch.where(batch.observed, yes, guess), torch.cat([batch.observed, batch.observed[2:]])
    labels = mix(torch.cat([labels, labels[2:]]))
    got = yes_of(model.classify(mix(torch.cat([batch.x, second_of(batch)]))))
    bernoulli = torch.distributions.Bernoulli
    divergence = torch.distributions.kl_divergence(bernoulli(labels), bernoulli(got))
    # Ten rows of the fourteen carry an annotation, and twelve have a cell without.
    want = divergence[observed].sum() / 10 + 75 * ((got - labels) ** 2)[~observed].sum() / 12
    torch.testing.assert_close(total(make("mixmatch", model), model, batch, STEPS), want)


def test_the_guess_of_mixmatch_has_no_gradient() -> None:
    model = Linear(ONE)
    batch, _ = one_label()
    # Unmixed views with the same posterior as their guess, which is not sharpened, have no distance to it.
    batch.second = batch.x[4:].clone()
    terms = make("mixmatch", model, mix=0.0, sharpen=1.0).loss(model, batch, STEPS)
    assert float(terms.consistency) == pytest.approx(0, abs=1e-12)
    (gradient,) = torch.autograd.grad(terms.total, model.weight)
    (wanted,) = torch.autograd.grad(annotated_term(model.classify(batch.x), batch, ONE), model.weight)
    torch.testing.assert_close(gradient, wanted)


def test_mixmatch_can_harden_its_guess() -> None:
    model = Linear(ONE)
    batch, y = one_label()
    batch.second = batch.x[4:].clone()
    logits = model.classify(batch.x)
    hard = F.one_hot(logits[4:].argmax(1), 10).double()
    want = F.cross_entropy(logits[:4], y) + 75 * F.mse_loss(logits[4:].softmax(1), hard)
    torch.testing.assert_close(total(make("mixmatch", model, mix=0.0, sharpen=0.0), model, batch, STEPS), want)


# --- FixMatch -----------------------------------------------------------------------------------------------


def test_fixmatch_is_its_formula() -> None:
    model = Linear(ONE)
    batch, y = one_label()
    logits, strong = model.classify(batch.x), model.classify(second_of(batch))
    q = logits[4:].softmax(1).detach()
    sure = q.max(1).values >= 0.95
    assert 0 < sure.sum() < 5
    loss = F.cross_entropy(strong, q.argmax(1), reduction="none")
    want = F.cross_entropy(logits[:4], y) + 0.6 * (loss * sure).mean()
    method = make("fixmatch", model, consistency=0.6)
    assert method.second_view == "strong"
    torch.testing.assert_close(total(method, model, batch), want)
    assert float(method.loss(model, batch, 0).confidence) == pytest.approx(float(sure.double().mean()))
    (gradient,) = torch.autograd.grad(total(method, model, batch), model.weight)
    (wanted,) = torch.autograd.grad(want, model.weight)
    torch.testing.assert_close(gradient, wanted)


def test_fixmatch_tests_every_cell_and_shows_annotated_ones() -> None:
    model = Linear(SEVERAL)
    batch, yes = several_labels()
    logits, strong = model.classify(batch.x), model.classify(second_of(batch))
    p = yes_of(logits)[2:].detach()
    sure = torch.maximum(p, 1 - p) >= 0.95
    seen = batch.observed[2:]
    assert bool((sure & ~seen).any())
    assert bool((~sure & ~seen).any())
    targets = torch.where(seen, yes[2:], (p > 0.5).double())
    want = bce(logits, yes, batch.observed) / 6 + bce(strong, targets, sure | seen) / 6
    torch.testing.assert_close(total(make("fixmatch", model), model, batch), want)


def test_the_threshold_of_fixmatch_is_where_it_says() -> None:
    q = torch.tensor([[0.9499, 0.0501], [0.9501, 0.0499], [0.03, 0.97], [0.5, 0.5]], dtype=torch.float64)
    assert make("fixmatch", Linear((2,))).sure(q.log()).flatten().tolist() == [False, True, True, False]
    # What equals the threshold counts.
    certain = torch.tensor([[0.0, -math.inf], [-1e-9, -20.0]])
    assert make("fixmatch", Linear((2,)), threshold=1.0).sure(certain.double()).flatten().tolist() == [True, False]


@pytest.mark.parametrize("name", ["fixmatch", "freematch"])
def test_strong_views_of_images_are_far_stronger_than_weak_ones(name: str) -> None:
    for sizes in (ONE, SEVERAL):
        augment = plan_for(facts_of(sizes, (1, 28, 28)), objective=name).augment
        assert (augment.strong, augment.erase) == (2, 2)
    assert plan_for(facts_of(ONE), objective=name).augment == plan_for(facts_of(ONE)).augment


# --- FreeMatch ----------------------------------------------------------------------------------------------


def test_the_running_figures_of_freematch_follow_unannotated_images() -> None:
    model = Linear(ONE)
    batch, _ = one_label()
    method = make("freematch", model)
    threshold, marginal, histogram = 0.1, np.full(10, 0.1), np.full(10, 0.1)
    for step in range(3):
        method.loss(model, batch, step)
        q = model.classify(batch.x[4:]).softmax(1).detach().numpy()
        # A twentieth of the 100 steps is remembered.
        threshold = 0.8 * threshold + 0.2 * q.max(1).mean()
        marginal = 0.8 * marginal + 0.2 * q.mean(0)
        histogram = 0.8 * histogram + 0.2 * np.bincount(q.argmax(1), minlength=10) / 5
        moved(model)
    assert float(method.threshold) == pytest.approx(threshold, rel=1e-5)
    np.testing.assert_allclose(method.marginal, marginal, rtol=1e-5)
    np.testing.assert_allclose(method.histogram, histogram, rtol=1e-5)
    before = copy.deepcopy(method.state_dict())
    method.eval().loss(model, batch, 0)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_the_running_figures_of_a_long_training_remember_a_thousand_steps() -> None:
    model, plan = Linear(ONE), Plan()
    plan.train.steps = 100_000
    assert find_objective("freematch").from_plan(model, plan, facts_of(ONE)).decay == pytest.approx(0.999)


def test_the_running_figures_are_kept_label_by_label() -> None:
    model = Linear((2, 3))
    method = make("freematch", model)
    torch.testing.assert_close(method.threshold, torch.tensor([1 / 2, 1 / 3]))
    torch.testing.assert_close(method.marginal, torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]))
    q = torch.tensor([[0.9, 0.1, 0.2, 0.2, 0.6], [0.3, 0.7, 0.5, 0.4, 0.1]], dtype=torch.float64)
    method.sure(q.log())
    torch.testing.assert_close(method.threshold, torch.tensor([0.5 + 0.2 * 0.3, 1 / 3 + 0.2 * (0.55 - 1 / 3)]))
    torch.testing.assert_close(method.histogram[2:], 1 / 3 + 0.2 * torch.tensor([1 / 6, -1 / 3, 1 / 6]))


def test_the_thresholds_of_freematch_by_hand() -> None:
    method = make("freematch", Linear((2, 3))).eval()
    method.threshold.copy_(torch.tensor([0.8, 0.9]))
    method.marginal.copy_(torch.tensor([0.75, 0.25, 0.5, 0.4, 0.1]))
    # Of the classes: 0.8, 0.8 / 3; 0.9, 0.72, 0.18.
    q = torch.tensor(
        [[0.79, 0.21, 0.89, 0.06, 0.05], [0.81, 0.19, 0.1, 0.73, 0.17], [0.45, 0.55, 0.34, 0.3, 0.36]],
        dtype=torch.float64,
    )
    assert method.sure(q.log()).tolist() == [[False, False], [True, True], [True, True]]
    q[1, 2:] = torch.tensor([0.15, 0.71, 0.14])
    assert method.sure(q.log()).tolist()[1] == [True, False]


def fairness(marginal: Any, histogram: Any, q: Any) -> float:
    """Σ_c SumNorm(p̃/h̃)·log SumNorm(p̄/h̄) of strong views that count (Wang 2023, eq. 11-12), in numpy."""
    shown = np.bincount(q.argmax(1), minlength=q.shape[1]) / len(q)
    ratio = np.divide(q.mean(0), shown, out=np.zeros(q.shape[1]), where=shown > 0)
    wanted = marginal / histogram
    return float((wanted / wanted.sum() * np.log(np.maximum(ratio / ratio.sum(), 1e-12))).sum())


@pytest.mark.parametrize("classes", [2, 4])
def test_the_fairness_term_by_hand(classes: int) -> None:
    """With 4 classes one of them is shown by no view: it has no place in p̄/h̄, instead of all of it."""
    method = make("freematch", Linear((classes,))).eval()
    rng = np.random.default_rng(0)
    marginal, histogram = rng.dirichlet(np.ones(classes)), rng.dirichlet(np.ones(classes))
    method.marginal.copy_(torch.from_numpy(marginal))
    method.histogram.copy_(torch.from_numpy(histogram))
    logits = torch.randn(12, classes, dtype=torch.float64, requires_grad=True)
    best = torch.arange(12) % min(classes, 3)
    logits = logits + 5 * F.one_hot(best, classes)
    sure = (torch.arange(12) < 8)[:, None]
    q = logits.softmax(1).detach().numpy()[:8]
    assert len(set(q.argmax(1))) == min(classes, 3)
    got = method.fairness(logits.log_softmax(1), logits.log_softmax(1), sure)
    assert got.item() == pytest.approx(0.01 * fairness(marginal, histogram, q), rel=1e-4)
    (gradient,) = torch.autograd.grad(got, logits)
    assert bool(gradient[:8].any())
    assert not bool(gradient[8:].any())
    # Where no view counts there is nothing to be fair about.
    nothing = method.fairness(logits.log_softmax(1), logits, torch.zeros_like(sure))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert bool(gradient.isfinite().all())
    assert not bool(gradient.any())


def test_freematch_is_fixmatch_with_its_thresholds_and_fairness() -> None:
    model = Linear(ONE)
    batch, y = one_label()
    method = make("freematch", model)
    logits, strong = model.classify(batch.x), model.classify(second_of(batch))
    q = logits[4:].softmax(1).detach()
    got = total(method, model, batch)
    best, guess = q.max(1)
    local = method.marginal / method.marginal.max()
    sure = best >= (method.threshold * local)[guess]
    assert bool(sure.any())
    loss = F.cross_entropy(strong, guess, reduction="none")
    fair = fairness(method.marginal.numpy(), method.histogram.numpy(), strong.softmax(1)[sure].detach().numpy())
    want = F.cross_entropy(logits[:4], y) + (loss * sure).mean() + 0.01 * fair
    assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_freematch_with_several_labels() -> None:
    model = Linear(SEVERAL)
    batch, yes = several_labels()
    method = make("freematch", model)
    logits, strong = model.classify(batch.x), model.classify(second_of(batch))
    got = total(method, model, batch)
    p, seen = yes_of(logits)[2:].detach(), batch.observed[2:]
    value = bce(logits, yes, batch.observed) / 6
    for j in range(3):
        marginal, histogram = (buffer[2 * j : 2 * j + 2] for buffer in (method.marginal, method.histogram))
        guess = (p[:, j] > 0.5).long()
        wanted = float(method.threshold[j]) * (marginal / marginal.max())[guess]
        sure = torch.maximum(p[:, j], 1 - p[:, j]) >= wanted
        counts, targets = sure | seen[:, j], torch.where(seen[:, j], yes[2:, j], guess.double())
        own = slice(2 * j, 2 * j + 2)
        value = value + bce(strong[:, own], targets[:, None], counts[:, None]) / 6
        q = strong[:, own].softmax(1)[sure].detach().numpy()
        value = value + 0.01 * fairness(marginal.numpy(), histogram.numpy(), q)
    assert got.item() == pytest.approx(value.item(), rel=1e-5)


# --- every objective ----------------------------------------------------------------------------------------


def few_digits(classes: int = 4, per_class: int = 15) -> tuple[Dataset, Dataset]:
    """300 training images of the first digits, some of them annotated, and all their test images."""
    data = digits()
    y = data.annotation.targets.argmax(axis=1)
    parts = [np.flatnonzero((y < classes) & (data.split == part)) for part in ("train", "test")]
    train, test = parts[0][:300], parts[1]
    known = np.full(len(train), -1)
    for c in range(classes):
        members = np.flatnonzero(y[train] == c)[:per_class]
        known[members] = c
    space = LabelSpace.multiclass(classes)
    return made(data.x[train], known, space), made(data.x[test], y[test], space)


SMALL: dict[str, Any] = {
    "train.steps": 80,
    "train.batch_labelled": 32,
    "train.batch_unlabelled": 64,
    "train.precision": "fp32",
    "train.folds": 0,
    "model.width": 8,
    "model.decoder_width": 8,
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_digits(name: str) -> None:
    training, testing = few_digits()

    def change(plan: Plan) -> Plan:
        # Supervised batches hold nothing unlabelled, and stay so.
        unlabelled = min(SMALL["train.batch_unlabelled"], plan.train.batch_unlabelled)
        return override(plan, {**SMALL, "train.batch_unlabelled": unlabelled}, "test")

    fitted = fit(training, change, quiet=True, objective=name)
    assert fitted.plan.objective.name == name
    assert fitted.result.steps == SMALL["train.steps"]
    assert all(bool(value.isfinite().all()) for value in fitted.model.state_dict().values())
    if name in WITHOUT_LABELS:
        # Their classes are clusters in any order; what they learn is the images.
        untrained = build_model(training, fitted.plan, fitted.facts).eval()
        assert likelihood(fitted.model, testing) > likelihood(untrained, testing) + 5
        return
    guess = predict_logits(fitted.model, testing.x).argmax(1).numpy()
    right = (guess == testing.annotation.targets.argmax(axis=1)).mean()
    # Of four classes. M1+M2 has half of the steps for its labels.
    assert right > {"m1m2": 0.4}.get(name, 0.7)


@torch.no_grad()
def likelihood(model: LabelVAE, data: Dataset) -> float:
    """The mean of log p(x|z,c) at the mean of q(z|x) and the probabilities of q(c|x), in nats an image."""
    x = model.prepare(torch.from_numpy(data.x))
    posterior = model.encode(x)
    c = latent.log_softmax(posterior.logits, model.sizes).exp()
    return float(model.log_likelihood(x, model.decode(posterior.mean, c)).mean())


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_on_partly_annotated_labels_and_never_sees_hidden_ones(name: str, image: bool) -> None:
    space = LabelSpace.multilabel(3)
    data = (images if image else vectors)(cells(60, 0.5, labels=3), space)
    seen = np.repeat(data.annotation.observed, space.sizes, axis=1)
    rng = np.random.default_rng(1)
    models = []
    for wrong in (np.nan, rng.random(seen.shape), 1e30):
        targets = np.where(seen, data.annotation.targets, wrong).astype(np.float32)
        shown = dataclasses.replace(data, annotation=Annotation(targets, data.annotation.observed))
        fitted = fit(shown, tiny(train={"steps": 4}), quiet=True, objective=name)
        assert all(bool(value.isfinite().all()) for value in fitted.model.state_dict().values())
        models.append(fitted.model)
    assert all(equal(model, models[0]) for model in models[1:])
    # The test can fail: fewer annotations do change the weights.
    fewer = hide(data.annotation, rng.random(data.annotation.observed.shape) < 0.5, space.sizes)
    other = fit(dataclasses.replace(data, annotation=fewer), tiny(train={"steps": 4}), quiet=True, objective=name)
    assert not equal(other.model, models[0])


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in WITHOUT_LABELS])
def test_every_objective_learns_yes_no_labels_from_half_of_the_cells(name: str) -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((500, 3)) < 0.4).astype(float)
    x = (np.tile(2 * y - 1, 2) + 0.4 * rng.normal(size=(500, 6))).astype(np.float32)  # two features tell of each label
    known = np.where(rng.random(y.shape) < 0.5, y, np.nan)
    known[200:300] = np.nan
    space = LabelSpace.multilabel(3)
    training, testing = made(x[:300], known[:300], space), made(x[300:], y[300:], space)
    # M1+M2 has half of the steps for its labels, which see the first latent alone, and that keeps little of vectors.
    steps = 600 if name == "m1m2" else 120
    sizes = {"batch_labelled": 32, "batch_unlabelled": 64}
    fitted = fit(training, tiny(train={"steps": steps, **sizes}, model={"width": 32}), quiet=True, objective=name)
    assert evaluate(fitted.model, testing)["auroc_macro"] > (0.65 if name == "m1m2" else 0.85)


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in OBJECTIVES), (DEFAULT, {"source": "interpolation"}), (DEFAULT, {"adversary": 0.1})],
)
def test_every_weight_learns_in_low_precision(name: str, changes: dict[str, Any]) -> None:
    """A pass without gradients must not keep its copies of the weights for the passes with them (pytorch 112583)."""

    def learnt(precision: str) -> dict[str, Tensor]:
        change = tiny(train={"steps": 4, "precision": precision}, objective=changes)
        fitted = fit(data, change, quiet=True, objective=name)
        start = build_model(data, fitted.plan, fitted.facts).state_dict()
        return {key: weight for key, weight in fitted.model.named_parameters() if not torch.equal(weight, start[key])}

    data = images(some_known())
    low, full = learnt("bf16"), learnt("fp32")
    assert low.keys() == full.keys() != set()
    assert any(not torch.equal(low[key], full[key]) for key in full)  # it is low


@pytest.mark.parametrize("name", ["mean-teacher", "freematch"])
def test_what_a_method_keeps_is_resumed(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run, usual = images(some_known()), Run.create(tmp_path / "run"), Stream.batch

    def cut(self: Stream, step: int, *rest: Any) -> Batch:
        if step == 5:
            raise KeyboardInterrupt
        return usual(self, step, *rest)

    change = tiny(train={"steps": 8, "checkpoint_every": 3})
    whole = fit(data, change, quiet=True, objective=name)
    with monkeypatch.context() as patch:
        patch.setattr(Stream, "batch", cut)
        with pytest.raises(KeyboardInterrupt):
            fit(data, change, run=run, quiet=True, objective=name)
    assert equal(resume(data, run, quiet=True).model, whole.model)
