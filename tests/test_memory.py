from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from taut.build import build_model, build_objective, build_stream
from taut.facts import fingerprint
from taut.fit import changed_plan
from taut.memory import MIB, estimate_memory
from taut.plan import override
from taut.train import make_accelerator, make_optimizer, train
from tiny import ONE, made, some_known

# A step of ResNet-18 on 48x48 images in a process of its own: the peak of its memory, less that before the step.
MEASURE = """
import re
from pathlib import Path
from taut.build import build_model, build_objective, build_stream
from taut.fit import changed_plan
from taut.memory import estimate_memory
from taut.facts import fingerprint
from taut.plan import override
from taut.train import train
from test_memory import CHANGES, data, of
dataset = data(48)
facts = fingerprint(dataset)
plan = of(dataset)
small = override(plan, {"train.batch_labelled": 2, "train.batch_unlabelled": 2}, "test")
def step(plan):
    model = build_model(dataset, plan, facts)
    objective = build_objective(model, plan, facts)
    return train(model, objective, build_stream(dataset, plan, objective), plan, quiet=True)
step(override(small, {"model.encoder": "conv"}, "test"))  # what libraries take when they are first used
def peak():
    # Not ru_maxrss, which a process inherits from the one that started it.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
kept = step(plan)
print(peak() - before, estimate_memory(dataset, plan, facts).total)
"""
CHANGES: dict[str, Any] = {
    "model.encoder": "resnet-18",
    "train.batch_labelled": 16,
    "train.batch_unlabelled": 48,
    "train.steps": 2,
    "train.precision": "fp32",
}


def data(side: int) -> Any:
    x = np.random.default_rng(0).integers(0, 256, (80, 1, side, side), dtype=np.uint8)
    return made(x, some_known(80, 20), ONE)


def of(dataset: Any, **changes: Any) -> Any:
    wanted = {**CHANGES, **changes}
    return changed_plan(fingerprint(dataset), lambda plan: override(plan, wanted, "test"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_the_estimate_is_within_a_factor_of_two_of_a_real_step() -> None:
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent), str(tests.parent / "src")])
    run = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    kibibytes, estimate = map(float, run.stdout.split())
    measured = kibibytes / 1024
    assert measured > 150
    assert measured / 2 < estimate < 2 * measured, (measured, estimate)


def test_the_line_through_two_small_batches_meets_the_count_of_the_large_one() -> None:
    dataset = data(16)
    plan = of(dataset, **{"model.encoder": "conv", "model.width": 8})
    estimate = estimate_memory(dataset, plan, fingerprint(dataset))
    model = build_model(dataset, plan, fingerprint(dataset)).to(memory_format=torch.channels_last)
    objective = build_objective(model, plan, fingerprint(dataset))
    batch = build_stream(dataset, plan, objective).batch(0, model, torch.device("cpu"))
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        terms = objective.loss(model.train(), batch, plan.train.steps - 1)
    assert terms.total.requires_grad
    assert estimate.activations == pytest.approx(sum(sizes.values()) / MIB, rel=0.1)


def test_weights_are_counted_with_gradients_moments_and_averages() -> None:
    dataset = data(16)
    plan = of(dataset, **{"model.encoder": "conv", "model.width": 8})
    facts = fingerprint(dataset)
    model = build_model(dataset, plan, facts)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    estimate = estimate_memory(dataset, plan, facts)
    assert estimate.parameters == trained
    assert estimate.weights == pytest.approx(5 * 4 * trained / MIB, rel=0.02)  # buffers are few here
    assert f"{trained:,} parameters" in estimate.sentence()
    with_teacher = of(dataset, **{"model.encoder": "conv", "model.width": 8, "objective.momentum": 0.9})
    assert estimate_memory(dataset, with_teacher, facts).weights == pytest.approx(6 * 4 * trained / MIB, rel=0.02)
    held = of(dataset, **{"model.encoder": "conv", "model.width": 8, "train.valid_fraction": 0.3})
    assert estimate_memory(dataset, held, facts).weights == estimate.weights  # too few to look at
    full = made(np.repeat(dataset.x, 2, axis=0), some_known(160, 160), ONE)
    assert estimate_memory(full, held, facts).weights == pytest.approx(6 * 4 * trained / MIB, rel=0.02)
    held.train.looks = 0
    assert estimate_memory(dataset, held, facts).weights == estimate.weights
    double = of(dataset, **{"model.encoder": "conv", "model.width": 8, "train.batch_labelled": 32,
                            "train.batch_unlabelled": 96})  # fmt: skip
    assert estimate_memory(dataset, double, facts).activations == pytest.approx(2 * estimate.activations, rel=0.1)


def test_nothing_random_is_spent_on_an_estimate() -> None:
    dataset = data(16)
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    estimate_memory(dataset, of(dataset, **{"model.encoder": "conv", "model.width": 8}), fingerprint(dataset))
    assert torch.equal(torch.rand(3), first)


# --- accumulation and mixed precision with large encoders ---------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "precision"), [("resnet-18", "bf16"), ("densenet-121", "fp32"), ("timm:resnet10t", "bf16")]
)
def test_large_encoders_train_with_accumulation(encoder: str, precision: str) -> None:
    if encoder.startswith("timm"):
        pytest.importorskip("timm")
    dataset = data(32)
    changes = {
        "model.encoder": encoder, "train.accumulate": 2, "train.precision": precision, "train.batch_labelled": 4,
        "train.batch_unlabelled": 4, "train.steps": 1, "train.ema": 0.0, "train.warmup": 0.0,
    }  # fmt: skip
    plan, facts = of(dataset, **changes), fingerprint(dataset)
    model = build_model(dataset, plan, facts)
    objective = build_objective(model, plan, facts)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = train(model, objective, build_stream(dataset, plan, objective), plan, quiet=True)
    assert result.steps == 1
    moved = [name for name, p in result.model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > 0.8 * len(before)
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in result.model.parameters())


def test_accumulated_parts_are_one_step_of_their_mean_gradient() -> None:
    """Accelerate's own bookkeeping, with the plan's settings: two halves of a batch are one step on the whole."""
    plan = of(data(16), **{"train.accumulate": 2}).train
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    whole, halves = nn.Linear(4, 1), nn.Linear(4, 1)
    halves.load_state_dict(whole.state_dict())
    optimizer = make_optimizer(whole, plan)
    nn.functional.mse_loss(whole(x), y).backward()
    optimizer.step()
    accelerator = make_accelerator(plan)
    wrapped, other = accelerator.prepare(halves, make_optimizer(halves, plan))
    start = halves.weight.detach().clone()
    for part in range(2):
        rows = slice(4 * part, 4 * part + 4)
        with accelerator.accumulate(wrapped):
            accelerator.backward(nn.functional.mse_loss(wrapped(x[rows]), y[rows]))
            other.step()
            other.zero_grad()
        assert torch.equal(halves.weight, start) == (part == 0)
    torch.testing.assert_close(halves.weight, whole.weight)
