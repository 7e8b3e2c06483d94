"""Claim 2, O(k·c) against O(c^k): time and peak memory of a training step of this objective and of M2.

The same networks and batch (64 images of 24x24 pixels, one in four annotated) for k labels of c classes. Each setting
runs in a process of its own, which gives its peak memory. M2 is measured as far as a step
stays under a minute and the library enumerates, 4,096 combinations (four times as many would not fit into 24 GiB);
beyond, its time is extrapolated by the growth fitted to the measured settings.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, peak_mib, record
from taut.build import build_model, build_objective, build_stream
from taut.data.dataset import Dataset
from taut.facts import fingerprint
from taut.fit import plan_for
from taut.labels import Annotation, Label, LabelSpace
from taut.latent import ENUMERATION_LIMIT
from taut.train import make_optimizer, processes

SETTINGS = [(k, 2) for k in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16)] + [(k, c) for c in (5, 10) for k in (1, 2, 3, 4)]
BATCH, SIDE = 64, 24
LIMIT_SECONDS = 60.0
FAR = 64  # combinations from which on the step outweighs the encoder, so that its growth shows
BUDGET = 3.0  # seconds of steps for a setting


def random_images(labels: int, classes: int) -> Dataset:
    """Random images, one in four annotated: only time and memory are measured."""
    rng = np.random.default_rng(0)
    n = 4 * BATCH
    space = LabelSpace([Label(f"l{j}", tuple(range(classes))) for j in range(labels)])
    known = space.encode(rng.integers(0, classes, (n, labels)).astype(float))
    observed = np.zeros((n, labels), dtype=bool)
    observed[: n // 4] = True
    targets = np.where(np.repeat(observed, classes, axis=1), known.targets, np.nan).astype(known.targets.dtype)
    x = rng.integers(0, 256, (n, 1, SIDE, SIDE), dtype=np.uint8)
    return Dataset("random", x, space, Annotation(targets, observed), [str(i) for i in range(n)])


def step_cost(objective: str, labels: int, classes: int, budget: float = BUDGET) -> dict[str, float]:
    """Median seconds of a step, and mebibytes of peak memory above those before the first step, in this process."""
    data = random_images(labels, classes)
    facts = fingerprint(data)
    plan = plan_for(facts, 0, objective)
    plan = dataclasses.replace(plan, train=dataclasses.replace(plan.train, batch_labelled=16, batch_unlabelled=48))
    plan.objective = dataclasses.replace(
        plan.objective, source="none", mutual_information=0.0, reconstruction=1.0, beta_z=1.0, beta_c=1.0, share=1.0
    )
    device = processes().device
    model = build_model(data, plan, facts).to(device, memory_format=torch.channels_last)
    method = build_objective(model, plan, facts).to(device)
    batch = build_stream(data, plan, method).batch(0, model, device)
    optimizer = make_optimizer(model, plan.train)
    before = peak(device)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - began < budget and len(times) < 200):
        start = time.perf_counter()
        method.loss(model, batch, len(times)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
        if times[-1] > LIMIT_SECONDS:
            break
    return {"step_ms": round(1000 * float(np.median(times)), 3), "memory_mib": round(peak(device) - before, 1)}


def peak(device: torch.device) -> float:
    """The most memory so far, MiB: of a GPU what tensors have there, else the resident set."""
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_mib()


def measured(objective: str, labels: int, classes: int) -> dict[str, float]:
    """`step_cost` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.label_cost", objective, str(labels), str(classes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def growth(times: dict[tuple[int, int], float]) -> tuple[float, float] | None:
    """Slope and offset of log time over log(c^k), from `FAR` combinations on; None of fewer than two times."""
    far = {k * math.log(c): math.log(ms) for (k, c), ms in times.items() if c**k >= FAR}
    if len(far) < 2:
        return None
    slope, offset = np.polyfit(list(far), list(far.values()), 1)
    return float(slope), float(offset)


def sweep(objective: str, settings: list[tuple[int, int]]) -> dict[str, Any]:
    """Every setting of one objective; where M2 would take too long, the fitted growth tells its time, marked so."""
    figures: dict[str, Any] = {}
    times: dict[tuple[int, int], float] = {}
    beyond: list[tuple[int, int]] = []
    for k, c in settings:
        # The step grows at least as the combinations do, from the largest setting so far.
        guess = max((1e-3 * ms / c0**k0 for (k0, c0), ms in times.items() if c0**k0 >= FAR), default=0.0) * c**k
        if objective == "m2" and (c**k > ENUMERATION_LIMIT or guess > LIMIT_SECONDS):
            beyond.append((k, c))
            continue
        cost = measured(objective, k, c)
        times[k, c] = cost["step_ms"]
        figures[f"k={k} c={c} ms"], figures[f"k={k} c={c} MiB"] = cost["step_ms"], cost["memory_mib"]
    fit = growth(times)
    if fit is not None:
        slope, offset = fit
        figures["exponent of c^k"] = round(slope, 4)
        figures |= {f"k={k} c={c} ms": round(math.exp(offset + slope * k * math.log(c)), 1) for k, c in beyond}
    figures["extrapolated"] = [f"k={k} c={c}" for k, c in beyond]
    two = [ms for (_, c), ms in times.items() if c == 2]
    figures["last over first"] = round(two[-1] / two[0], 4)
    return figures


def main(seeds: int = 3, folder: Path = RESULTS, settings: list[tuple[int, int]] | None = None) -> None:
    """Measure both, `seeds` times over."""
    about = f"time and peak memory of a training step, {BATCH} images; ms and MiB; k labels of c classes"
    chosen = settings or SETTINGS
    record(
        "label-cost",
        about,
        {"taut": lambda _: sweep("tighter-elbo", chosen), "M2": lambda _: sweep("m2", chosen)},
        range(seeds),
        folder,
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(step_cost(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
