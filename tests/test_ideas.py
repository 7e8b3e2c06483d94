from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks import ideas
from torch import Tensor

from taut import latent
from taut.baselines import DEFAULT, OBJECTIVES
from taut.facts import fingerprint
from taut.fit import fit, plan_of
from taut.nn import Architecture, LabelVAE
from taut.objective import Batch, Weights
from taut.targets import Estimate, Proposal, Source
from taut.tighter import Sampling, TighterELBO
from tiny import ONE, images, tiny

CLASSES, RHO = 3, 0.02
WEIGHTS = Weights(reconstruction=RHO, beta_z=RHO, beta_c=0.0, alpha=2.0, capacity_z=1.0, mutual_information=0.5)


class Moved(Source):
    """The batch's last rows a little changed, with nothing estimated."""

    def propose(self, model: Any, batch: Batch, belief: float = 1.0) -> Proposal:
        n = len(batch.x) // 2
        estimate = Estimate(torch.full((n, CLASSES), 1 / CLASSES), torch.zeros(n, 1))
        return Proposal(1 - batch.x[n:], lambda posterior: estimate)


@pytest.fixture
def model() -> LabelVAE:
    torch.manual_seed(3)
    return LabelVAE(ONE, Architecture((1, 8, 8), "conv", width=4, z_dim=2, decoder_width=4)).eval()


def batch(n: int = 8) -> Batch:
    """Images of noise, of which the first half is annotated."""
    torch.manual_seed(4)
    classes = torch.nn.functional.one_hot(torch.arange(n) % CLASSES, CLASSES).float()
    return Batch(torch.rand(n, 1, 8, 8), classes, torch.arange(n)[:, None] < n // 2)


def made(kind: type[TighterELBO], source: Source | None = None, **options: Any) -> TighterELBO:
    """An objective of one of the ideas; every row is decoded."""
    return kind(WEIGHTS, source, Sampling("straight-through"), **options).eval()


def total(objective: TighterELBO, model: LabelVAE, step: int = 0) -> Tensor:
    """The loss, always with the same noise."""
    torch.manual_seed(5)
    return objective.loss(model, batch(), step).total


def gradients(objective: TighterELBO, model: LabelVAE, step: int = 0) -> dict[str, Tensor]:
    """The gradient of every trained weight, zeros where there is none."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = total(objective, model, step)
    return dict(
        zip(
            named,
            torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True),
            strict=True,
        )
    )


def test_the_bound_alone_is_eq_13_until_its_steps_are_over(model: LabelVAE) -> None:
    objective = made(ideas.BoundFirst, Moved())
    assert isinstance(objective, ideas.BoundFirst)
    objective.first = 5
    terms = objective.loss(model, batch(), 4)
    assert terms.surrogate is not None
    assert terms.consistency is None
    torch.testing.assert_close(terms.total, -RHO * terms.surrogate)
    assert objective.loss(model, batch(), 5).consistency is not None
    torch.testing.assert_close(total(objective, model, 5), total(made(TighterELBO, Moved()), model, 5))


def test_clean_views_are_reconstructed_from_moved_ones(model: LabelVAE) -> None:
    plain = made(TighterELBO, Moved())
    given = batch()
    base = total(plain, model)
    weak = Batch(given.x[4:], given.targets[4:], given.observed[4:])
    # The noise goes on where the base's loss left off.
    expected = base - RHO * plain.log_likelihood(model, weak, model.encode(1 - given.x[4:])).mean()
    torch.testing.assert_close(total(made(ideas.CleanFromMoved, Moved()), model), expected)


@pytest.mark.parametrize("belief", [0.0, 1.0])
@torch.no_grad()
def test_the_decoder_is_asked_for_the_class(model: LabelVAE, belief: float) -> None:
    objective = made(ideas.DecoderAsked)
    assert isinstance(objective, ideas.DecoderAsked)
    objective.belief = belief
    given = batch()
    posterior = model.encode(given.x)
    torch.manual_seed(6)
    objective.log_likelihood(model, given, posterior)
    torch.manual_seed(6)
    order = torch.randperm(8)
    z = latent.gaussian_sample(posterior.mean[order], posterior.log_var[order])
    expected = 0.0
    for i, row in enumerate(order.tolist()):
        each = [
            model.log_likelihood(given.x[row : row + 1], model.decode(z[i : i + 1], torch.eye(CLASSES)[c : c + 1]))
            for c in range(CLASSES)
        ]
        log_p = (ideas.TEMPER * torch.cat(each)).log_softmax(0)  # p(c) is uniform here
        q = posterior.logits[row].log_softmax(0)
        if row < 4:
            expected -= float(log_p[row % CLASSES]) / 8
        else:
            expected += belief * float((q.exp() * (q - log_p)).sum()) / 8
    assert float(objective.term) == pytest.approx(expected, rel=1e-4)


def test_the_classifier_learns_from_drawn_images_and_the_decoder_does_not(model: LabelVAE) -> None:
    plain, drawn = (gradients(made(kind), model) for kind in (TighterELBO, ideas.LearnsFromDrawn))
    same = {name: torch.equal(value, drawn[name]) for name, value in plain.items()}
    assert all(equal for name, equal in same.items() if name.startswith("decoder"))
    assert not same["to_logits.weight"]
    # Before its onset it adds nothing.
    late = {"onset": (2, 4)}
    assert total(made(ideas.LearnsFromDrawn, **late), model) == total(made(TighterELBO, **late), model)


def test_a_decoder_beside_the_classifier_teaches_it_nothing(model: LabelVAE) -> None:
    data = images([0, 1, 2] * 8 + [float("nan")] * 24)
    plan, facts = plan_of(data), fingerprint(data)
    found = []
    for kind, rho in ((ideas.DecoderBeside, RHO), (TighterELBO, 0.0)):
        chosen = replace(plan, objective=replace(plan.objective, reconstruction=rho, beta_z=rho, source="none"))
        own = copy.deepcopy(model)
        found.append(gradients(kind.from_plan(own, chosen, facts), own, 50))
    beside, none = found
    assert any(bool(value.any()) for name, value in beside.items() if name.startswith("decoder"))
    for name, value in none.items():
        if not name.startswith(("to_z", "decoder")):
            torch.testing.assert_close(beside[name], value)


@pytest.mark.parametrize("name", ideas.IDEAS)
def test_every_idea_trains_as_it_was_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images([0, 1, 2] * 8 + [float("nan")] * 24)
    kind, changes = ideas.IDEAS[name]
    seen = []

    def one(changes: dict[str, Any], minutes: float, per_class: int, seed: int) -> dict[str, Any]:
        seen.append((OBJECTIVES[DEFAULT], changes, minutes, per_class))
        result = fit(data, tiny(), seed=seed, quiet=True)
        return {"finite": all(bool(p.isfinite().all()) for p in result.model.parameters())}

    monkeypatch.setattr(ideas, "one", one)
    assert ideas.idea(kind, changes, 0.5, 2, 0) == {"finite": True}
    assert seen == [(kind, changes, 0.5, 2)]
    assert OBJECTIVES[DEFAULT] is TighterELBO
