"""The loop's overhead: its step time over a bare forward, backward and optimiser step of the same networks."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, record
from taut.build import build_model, build_objective, build_stream
from taut.data.dataset import Dataset
from taut.data.split import draw_per_class
from taut.facts import fingerprint
from taut.labels import LabelSpace
from taut.plan import Plan
from taut.rules import make_plan
from taut.train import make_accelerator, make_optimizer, train

STEPS = 60


def mnist_like() -> Dataset:
    """Random images of MNIST's shape with 10 annotations a class: only time is measured."""
    rng = np.random.default_rng(0)
    space = LabelSpace.multiclass(10)
    x = rng.integers(0, 256, (5000, 1, 28, 28), dtype=np.uint8)
    data = Dataset("random", x, space, space.encode(np.arange(5000) % 10), [str(i) for i in range(5000)])
    return dataclasses.replace(data, annotation=draw_per_class(data, 10, 0))


def bare(data: Dataset, plan: Plan) -> float:
    """Seconds of a forward, backward and optimiser step on one batch that is there already, as the loop counts them."""
    facts = fingerprint(data)
    model = build_model(data, plan, facts).to(memory_format=torch.channels_last)
    objective = build_objective(model, plan, facts)
    accelerator = make_accelerator(plan.train)
    model = model.to(accelerator.device)
    objective.to(accelerator.device)
    batch = build_stream(data, plan, objective).batch(0, model, accelerator.device)
    optimizer = make_optimizer(model, plan.train)
    times = []
    for step in range(STEPS):
        began = time.perf_counter()
        with accelerator.autocast():
            terms = objective.loss(model, batch, step)
        terms.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - began)
    return float(np.mean(sorted(times)[: math.ceil(0.9 * STEPS)]))


def one(seed: int) -> dict[str, Any]:
    """Both times, measured in turn so that a noisy machine hits them alike."""
    data = mnist_like()
    facts = fingerprint(data)
    plan = make_plan(facts, seed)
    plan.train.steps = STEPS
    plan.objective.onset = plan.objective.full = 0.0  # before it a step has fewer views
    ratios, loops, bares = [], [], []
    for _ in range(3):
        bares.append(bare(data, plan))
        model = build_model(data, plan, facts)
        objective = build_objective(model, plan, facts)
        loops.append(train(model, objective, build_stream(data, plan, objective), plan, quiet=True).step_seconds)
        ratios.append(loops[-1] / bares[-1])
    return {
        "ratio": round(float(np.median(ratios)), 4),
        "loop_ms": round(1000 * float(np.median(loops)), 2),
        "bare_ms": round(1000 * float(np.median(bares)), 2),
    }


def main(seeds: int = 5, folder: Path = RESULTS) -> None:
    """Measure five times."""
    record(
        "overhead",
        "step time of the loop over a bare step, MNIST's shape and plan, all views",
        {"loop": one},
        range(seeds),
        folder,
    )


if __name__ == "__main__":
    main()
