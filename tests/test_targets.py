from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from conftest import LinearGaussian, random_logits, random_prior, uniform_prior
from taut import latent
from taut.labels import LabelSpace
from taut.nn import Architecture, LabelVAE, Posterior
from taut.objective import Batch
from taut.targets import (
    AveragedModel,
    Estimate,
    Interpolation,
    Proposal,
    Source,
    Teacher,
    mixed,
    mixed_estimate,
    optimal_match,
)

SIZES = (2, 3)


def make_batch(model: LinearGaussian, n: int = 8, strong: int = 5, annotated: int = 3) -> Batch:
    """Annotated rows first, then rows without annotation; NaN where hidden."""
    x = model.sample(n)
    observed = torch.zeros(n, len(model.sizes), dtype=torch.bool)
    observed[:annotated] = True
    targets = torch.full((n, sum(model.sizes)), math.nan, dtype=torch.float64)
    targets[:annotated] = latent.hard_sample(model.log_prior.expand(annotated, -1), model.sizes)
    return Batch(x, targets, observed, x[n - strong :] + 0.1 if strong else None)


def teacher(**options: Any) -> Teacher:
    return Teacher(nn.Identity(), SIZES, **options).eval()


def estimate(source: Source, model: LinearGaussian, batch: Batch, posterior: Posterior | None = None) -> Estimate:
    proposal = source.propose(model, batch)
    assert proposal is not None
    return proposal.estimate(model.encode(batch.x) if posterior is None else posterior)


def test_no_source_proposes_nothing() -> None:
    model = LinearGaussian(SIZES)
    assert Source().propose(model, make_batch(model)) is None
    assert not Source().needs_strong


# --- teacher ------------------------------------------------------------------------------------------------


def test_plain_teacher_gives_the_posterior() -> None:
    logits = random_logits(6, SIZES, dtype=torch.float32)
    got = teacher(sharpen=1.0).targets(logits, uniform_prior(SIZES))
    torch.testing.assert_close(got.targets, latent.log_softmax(logits, SIZES).exp())
    assert torch.equal(got.confidence, torch.ones(6, 2))


@pytest.mark.parametrize("temperature", [0.5, 0.25])
def test_sharpening_is_a_power_of_each_label(temperature: float) -> None:
    logits = random_logits(6, SIZES, dtype=torch.float32)
    q = latent.log_softmax(logits, SIZES).exp()
    power = q ** (1 / temperature)
    want = power / latent.spread_labels(latent.sum_labels(power, SIZES), SIZES)
    torch.testing.assert_close(teacher(sharpen=temperature).targets(logits, uniform_prior(SIZES)).targets, want)


def test_sharpening_to_zero_is_one_hot() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0, 1.0], [2.0, -2.0, 0.0, 0.5, 0.2]])
    got = teacher(sharpen=0.0).targets(logits, uniform_prior(SIZES))
    torch.testing.assert_close(got.targets, torch.tensor([[0.0, 1, 1, 0, 0], [1, 0, 0, 1, 0]]))


def test_the_threshold_masks_each_label_by_itself() -> None:
    q = torch.tensor([[0.96, 0.04, 0.4, 0.3, 0.3], [0.6, 0.4, 0.01, 0.01, 0.98], [0.97, 0.03, 0.02, 0.96, 0.02]])
    got = teacher(threshold=0.95, sharpen=0.5).targets(q.log(), uniform_prior(SIZES))
    assert got.confidence.tolist() == [[1, 0], [0, 1], [1, 1]]


def test_knowing_the_frequency_of_a_rare_finding_is_not_being_sure() -> None:
    yes = torch.tensor([0.002, 0.00039, 0.00001, 0.5, 0.9995])
    q = torch.stack([1 - yes, yes], 1)
    sure = Teacher(LinearGaussian((2,)), (2,), threshold=0.99).targets(q.log(), torch.tensor([0.996, 0.004]).log())
    assert sure.confidence.flatten().tolist() == [0, 1, 1, 0, 1]  # a "no" must leave less than 0.0004
    even = Teacher(LinearGaussian((2,)), (2,), threshold=0.99).targets(q.log(), torch.tensor([0.7, 0.3]).log())
    assert even.confidence.flatten().tolist() == [1, 1, 1, 0, 1]
    half = Teacher(LinearGaussian((2,)), (2,), threshold=0.8).targets(q.log(), torch.tensor([0.5, 0.5]).log())
    assert half.confidence.flatten().tolist() == [1, 1, 1, 0, 1]
    soft = Teacher(LinearGaussian((2,)), (2,)).targets(q.log(), torch.tensor([0.996, 0.004]).log())
    assert bool(soft.confidence.all())


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_alignment_is_its_formula(power: float) -> None:
    source, prior = teacher(alignment=power, sharpen=1.0), random_prior(SIZES, torch.float32)
    marginal = torch.tensor([0.9, 0.1, 0.2, 0.2, 0.6])
    source.marginal.copy_(marginal)
    logits = random_logits(6, SIZES, dtype=torch.float32)
    weight = latent.log_softmax(logits, SIZES).exp() * (prior.exp() / marginal) ** power
    want = weight / latent.spread_labels(latent.sum_labels(weight, SIZES), SIZES)
    torch.testing.assert_close(source.targets(logits, prior).targets, want)
    assert torch.equal(source.marginal, marginal)


def test_alignment_pulls_a_skewed_marginal_towards_the_prior() -> None:
    source, prior = teacher(alignment=1.0, sharpen=1.0).train(), random_prior(SIZES, torch.float32)
    logits = random_logits(400, SIZES, dtype=torch.float32) + torch.tensor([3.0, 0, 0, 0, 2.5])
    for _ in range(600):
        aligned = source.targets(logits, prior).targets
    plain = latent.log_softmax(logits, SIZES).exp()
    torch.testing.assert_close(source.marginal, plain.mean(0), atol=0.01, rtol=0)
    before = latent.label_kl(plain.mean(0).log(), prior, SIZES)
    after = latent.label_kl(aligned.mean(0).log(), prior, SIZES)
    assert bool((after < 0.5 * before).all())


def test_labels_are_estimated_independently() -> None:
    logits, prior = random_logits(50, SIZES, dtype=torch.float32), random_prior(SIZES, torch.float32)
    other = logits.clone()
    other[:, 2:] = random_logits(50, SIZES, 4.0, torch.float32)[:, 2:]
    results = []
    for rows in (logits, other):
        source = teacher(alignment=1.0, threshold=0.7, sharpen=0.5).train()
        results.append([source.targets(rows, prior) for _ in range(3)][-1])
    a, b = results
    assert torch.equal(a.targets[:, :2], b.targets[:, :2])
    assert torch.equal(a.confidence[:, 0], b.confidence[:, 0])
    assert not torch.equal(a.confidence[:, 1], b.confidence[:, 1])


def test_the_network_teaches_its_strong_views_from_their_weak_ones() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model)
    source = Teacher(model, SIZES, sharpen=1.0)
    proposal = source.propose(model, batch)
    assert isinstance(proposal, Proposal)
    assert batch.second is not None
    assert torch.equal(proposal.x, batch.second)
    posterior = model.encode(batch.x)
    got = proposal.estimate(posterior)
    want = latent.log_softmax(posterior.logits[3:], SIZES).exp().float()
    torch.testing.assert_close(got.targets, want)
    assert posterior.logits.requires_grad
    assert not got.targets.requires_grad
    assert source.average is None
    assert source.propose(model, make_batch(model, strong=0)) is None


def test_an_adversary_moves_views_to_where_the_posterior_changes_most() -> None:
    torch.manual_seed(0)
    model = LinearGaussian(SIZES)
    batch = make_batch(model, n=40, strong=40, annotated=5)
    assert batch.second is not None
    source = Teacher(model, SIZES, sharpen=1.0, adversary=0.05)
    proposal = source.propose(model, batch)
    assert proposal is not None
    moved = proposal.x - batch.second
    torch.testing.assert_close(moved.norm(dim=1), torch.full((40,), 0.05, dtype=moved.dtype))

    def change(r: Tensor) -> Tensor:
        before, after = (latent.log_softmax(model.encode(x).logits, SIZES) for x in (batch.second, batch.second + r))
        return latent.label_kl(before, after, SIZES).sum(1).mean()

    noise = [torch.nn.functional.normalize(torch.randn_like(moved), dim=1) * 0.05 for _ in range(20)]
    assert change(moved) > max(change(r) for r in noise)
    assert not any(p.grad is not None for p in model.parameters())
    still = Teacher(model, SIZES, adversary=0.05).propose(model, batch, belief=0.0)
    assert still is not None
    assert torch.equal(still.x, batch.second)  # what does not count yet needs no adversary


def test_an_adversary_knows_nothing_of_ignored_cells() -> None:
    torch.manual_seed(0)
    model = LinearGaussian(SIZES)
    batch = make_batch(model, annotated=0)
    batch.ignored = torch.ones(8, 2, dtype=torch.bool)
    proposal = Teacher(model, SIZES, adversary=0.05).propose(model, batch)
    assert proposal is not None
    assert batch.second is not None
    torch.testing.assert_close(proposal.x, batch.second)


def test_views_of_annotated_cells_have_the_annotation_as_target() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model, n=6, annotated=2, strong=6)
    batch.observed[3, 1] = True
    batch.targets[3, 2:] = torch.tensor([0.0, 1.0, 0.0])
    proposal = Teacher(model, SIZES, threshold=1.1).propose(model, batch)
    assert proposal is not None
    got = proposal.estimate(model.encode(batch.x))
    # No estimate is confident enough, so that only annotated cells count.
    assert torch.equal(got.confidence, batch.observed.float())
    seen = latent.spread_labels(batch.observed, SIZES)
    assert torch.equal(got.targets[seen], batch.targets[seen].float())
    assert bool(got.targets.isfinite().all())


def test_mixed_views_have_mixed_targets() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model, n=40, annotated=0, strong=40)
    source = Teacher(model, SIZES, sharpen=1.0, mix=0.75)
    assert batch.second is not None
    torch.manual_seed(3)
    x, partner, share = mixed(batch.second, 0.75)
    assert float(share.min()) >= 0.5
    assert float(share.std()) > 0.05  # a share of its own for each view
    assert sorted(partner.tolist()) == list(range(40))
    torch.testing.assert_close(x, share[:, None] * batch.second + (1 - share[:, None]) * batch.second[partner])
    torch.manual_seed(3)
    proposal = source.propose(model, batch)
    assert proposal is not None
    assert torch.equal(proposal.x, x)
    posterior = model.encode(batch.x)
    q = latent.log_softmax(posterior.logits.float(), SIZES).exp()
    got = proposal.estimate(posterior)
    torch.testing.assert_close(got.targets, share[:, None] * q + (1 - share[:, None]) * q[partner])
    assert torch.equal(got.confidence, torch.ones(40, 2))
    assert not got.targets.requires_grad


def test_a_mixed_target_counts_as_much_as_it_is_believed() -> None:
    targets = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0.5, 0.5, 0, 0, 1]])
    confidence = torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    got = mixed_estimate(Estimate(targets, confidence), torch.tensor([1, 2, 1]), torch.tensor([0.75, 0.5, 0.6]), SIZES)
    torch.testing.assert_close(got.confidence, torch.tensor([[0.75, 0.25], [0, 0.5], [0, 0.4]]))
    # What counts alone is taken as it is; where nothing counts the own target stays, unused.
    torch.testing.assert_close(got.targets[0], torch.tensor([1.0, 0, 0, 1, 0]))
    torch.testing.assert_close(got.targets[1], targets[1])
    torch.testing.assert_close(got.targets[2], torch.tensor([0.5, 0.5, 0, 1, 0]))


def test_the_averaged_teacher_follows_its_formula() -> None:
    model = LinearGaussian(SIZES)
    batch, source = make_batch(model), Teacher(model, SIZES, momentum=0.9, sharpen=1.0)
    assert source.average is not None
    assert not any(p.requires_grad for p in source.average.parameters())
    want = {name: value.clone() for name, value in model.state_dict().items()}
    for momentum in (0, 1 / 2, 2 / 3, 3 / 4, 4 / 5, 5 / 6, 6 / 7, 7 / 8, 8 / 9, 0.9, 0.9):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        got = estimate(source, model, batch)
        for name, value in model.state_dict().items():
            want[name] = momentum * want[name] + (1 - momentum) * value
    for name, value in source.average.model.state_dict().items():
        torch.testing.assert_close(value, want[name])
    # The estimate is the average's, not the student's, and carries no gradient.
    logits = batch.x[3:] @ want["to_logits"]
    torch.testing.assert_close(got.targets, latent.log_softmax(logits, SIZES).exp().float())
    student = latent.log_softmax(model.encode(batch.x[3:]).logits, SIZES).exp().float()
    assert not torch.allclose(got.targets, student)
    assert not got.targets.requires_grad


def test_an_average_that_follows_at_every_part_of_a_step_moves_once_a_step() -> None:
    model = nn.Linear(2, 2)
    averages = [AveragedModel(model, 0.9, parts) for parts in (1, 4)]
    once, several = averages
    once.followed += 100
    several.followed += 400
    with torch.no_grad():
        model.weight.add_(1.0)
    once.follow(model)
    for _ in range(4):
        several.follow(model)
    torch.testing.assert_close(several.model.weight, once.model.weight)
    torch.testing.assert_close(once.model.weight, model.weight - 0.9)


def test_dropout_does_not_blur_the_averaged_teacher() -> None:
    model = LabelVAE(LabelSpace.multiclass(3), Architecture((1, 8, 8), width=4, z_dim=2, dropout=0.9)).train()
    x = torch.rand(6, 1, 8, 8)
    average = AveragedModel(model, 0.5)
    first, second = (average.follow(model).classify(x) for _ in range(2))
    torch.testing.assert_close(first, second)
    student = model.classify(x)
    assert not torch.allclose(first, student)
    # Statistics of the batch, as the student's: without dropout they see the same images alike.
    model.dropout.eval()
    torch.testing.assert_close(first, model.classify(x))


def test_counters_of_the_averaged_teacher_are_copied() -> None:
    model = LabelVAE(LabelSpace.multiclass(3), Architecture((1, 8, 8), width=4, z_dim=2))
    x = torch.rand(4, 1, 8, 8)
    source = Teacher(model, (3,), momentum=0.99)
    for _ in range(3):
        model.encode(x)
    hidden = torch.zeros(4, 1, dtype=torch.bool)
    batch = Batch(x, torch.full((4, 3), math.nan), hidden, second=x)
    proposal = source.propose(model, batch)
    assert proposal is not None
    proposal.estimate(model.encode(x))
    assert source.average is not None
    counters = [int(v) for name, v in source.average.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counters == [4] * 3  # three, and one for the teacher's own view


# --- interpolation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [1, 4])
def test_optimal_match_equals_a_double_loop(dimensions: int) -> None:
    mean, log_var = torch.randn(12, dimensions).double(), torch.randn(12, dimensions).double()
    want = []
    for i in range(12):
        divergences = []
        for j in range(12):
            p, q = (Normal(mean[r], (0.5 * log_var[r]).exp()) for r in (i, j))
            divergences.append(math.inf if i == j else float(kl_divergence(p, q).sum()))
        want.append(divergences.index(min(divergences)))
    assert optimal_match(mean, log_var).tolist() == want


def test_mixed_precision_does_not_round_the_divergences() -> None:
    mean, log_var = torch.randn(200, 16), torch.randn(200, 16)
    want = optimal_match(mean, log_var)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(optimal_match(mean, log_var), want)


def test_a_row_never_matches_itself() -> None:
    same = optimal_match(torch.zeros(5, 3), torch.zeros(5, 3))
    assert bool((same != torch.arange(5)).all())


def test_interpolation_mixes_images_and_posteriors_alike() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model, n=9, annotated=3)
    batch.observed[1, 1] = False
    rows = torch.tensor([1, 3, 4, 5, 6, 7, 8])
    proposal = Interpolation(SIZES).propose(model, batch)
    assert proposal is not None
    with torch.no_grad():
        posterior = model.encode(batch.x[rows])
    partner = optimal_match(posterior.mean, posterior.log_var)
    x, other = batch.x[rows], batch.x[rows][partner]
    share = ((proposal.x - other) / (x - other)).mean()
    assert 0 < float(share) < 1

    def mixed(value: Tensor) -> Tensor:
        return share * value + (1 - share) * value[partner]

    got = proposal.estimate(None)
    torch.testing.assert_close(proposal.x, mixed(x))
    known = latent.spread_labels(batch.observed[rows], SIZES)
    q = torch.where(known, batch.targets[rows], latent.log_softmax(posterior.logits, SIZES).exp())
    assert bool(known.any())
    torch.testing.assert_close(got.targets, mixed(q))
    torch.testing.assert_close(latent.sum_labels(got.targets, SIZES), torch.ones(7, 2).double())
    assert got.z is not None
    torch.testing.assert_close(got.z[0], mixed(posterior.mean))
    torch.testing.assert_close((0.5 * got.z[1]).exp(), mixed((0.5 * posterior.log_var).exp()))
    assert torch.equal(got.confidence, torch.ones(7, 2))
    for value in (got.targets, *got.z, proposal.x):
        assert not value.requires_grad


def test_random_interpolation_draws_another_share_each_time() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model, annotated=0)
    got = [Interpolation(SIZES, "random").propose(model, batch) for _ in range(3)]
    views = [proposal.x for proposal in got if proposal is not None]
    assert len(views) == 3
    assert not torch.equal(views[0], views[1])
    low, high = batch.x.min(0).values, batch.x.max(0).values
    assert all(bool(((v >= low) & (v <= high)).all()) for v in views)


def test_interpolation_needs_two_images_without_annotation() -> None:
    model = LinearGaussian(SIZES)
    assert Interpolation(SIZES).propose(model, make_batch(model, annotated=7)) is None
    assert Interpolation(SIZES).propose(model, make_batch(model, annotated=6)) is not None


def test_hidden_annotations_do_not_reach_an_estimate() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model)
    other = copy.copy(batch)
    other.targets = torch.where(latent.spread_labels(batch.observed, SIZES), batch.targets, 1.0)
    for source in (Interpolation(SIZES), Teacher(model, SIZES)):
        results = []
        for shown in (batch, other):
            torch.manual_seed(5)
            results.append(estimate(source.eval(), model, shown))
        assert torch.equal(results[0].targets, results[1].targets)


def test_another_view_of_an_image_is_no_partner() -> None:
    mean = torch.tensor([[0.0], [0.01], [5.0], [5.2]])
    log_var, index = torch.zeros(4, 1), torch.tensor([3, 3, 4, 5])
    assert optimal_match(mean, log_var).tolist() == [1, 0, 3, 2]
    assert optimal_match(mean, log_var, index).tolist() == [2, 2, 3, 2]
    assert optimal_match(mean, log_var, torch.zeros(4)).tolist() == [1, 0, 3, 2]  # where there is no other
