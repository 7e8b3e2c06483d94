"""Seconds of training until the test error of MNIST with 100 labels stays under 3.12 %, smooth-ELBO's published one.

Snapshots of the averaged weights are saved while a short plan runs, and evaluated after it has ended, so that no test
image is seen before training is over. The schedule is that of the whole plan; a longer one would reach 3.12 % later.
With names of objectives the curves of these instead, with augmentation and as `benchmarks.rivals` tuned them:
`python -m benchmarks.speed 1 1.0 tighter-elbo vat mixmatch fixmatch m2 supervised`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks import rivals
from benchmarks.common import RESULTS, chosen, record
from benchmarks.mnist import SETTINGS, changed, draw, parts
from taut.baselines import DEFAULT
from taut.build import build_model
from taut.evaluate.metrics import label_figures
from taut.evaluate.predict import predict_probabilities
from taut.fit import fit
from taut.nn.vae import LabelVAE
from taut.run import Run

TO_BEAT = 3.12
EVERY = 20
POINTS = 12  # of a rival's curve


class Snapshots(Run):
    """A run folder that keeps the weights of every checkpoint, with the seconds of training until then."""

    def log(self, row: dict[str, float]) -> None:
        """Append the line, and keep the checkpoint of the line before."""
        super().log(row)
        progress = self.checkpoint / "progress.json"
        if progress.exists():
            done = json.loads(progress.read_text())
            kept = self.path / f"{done['step']:06}-{done['seconds']:.3f}.safetensors"
            (self.checkpoint / "model.safetensors").rename(kept)

    def kept(self) -> list[tuple[float, Path]]:
        """Seconds and weights of each snapshot, in order."""
        return [(float(path.stem.split("-")[1]), path) for path in sorted(self.path.glob("[0-9]*.safetensors"))]


def one(
    minutes: float,
    seed: int,
    objective: str = DEFAULT,
    changes: dict[str, Any] | None = None,
    points: int | None = None,
) -> dict[str, Any]:
    """The test error over the seconds of training, and when it first stays under what is to beat.

    points: how many of the snapshots are evaluated; by default all.
    """
    training = draw(seed)
    change = partial(changed, {**(changes or {}), "train.log_every": EVERY, "train.checkpoint_every": EVERY})
    with tempfile.TemporaryDirectory() as folder:
        run = Snapshots(folder)
        fitted = fit(training, change, minutes, seed, run=run, quiet=True, objective=objective)
        model = build_model(training, fitted.plan, fitted.facts).eval()
        model.views = fitted.model.views
        curve = []
        for seconds, path in run.kept()[:: max(1, len(run.kept()) // points) if points else 1]:
            weights = {name: value for name, value in load_file(path).items() if name.startswith("average.")}
            found = {name.removeprefix("average."): value for name, value in weights.items()}
            model.load_state_dict({**model.state_dict(), **found})
            curve.append((round(seconds, 2), test_error(model)))
    curve.append((round(fitted.result.seconds, 2), test_error(fitted.model)))
    return {"seconds_to_3.12": until(curve), "error": curve[-1][1], "seconds": curve[-1][0], "curve": curve}


def test_error(model: LabelVAE) -> float:
    """The test error in percent."""
    test = parts()[1]
    return round(float(label_figures(predict_probabilities(model, test.x), test)["error"]), 3)


def until(curve: list[tuple[float, float]], bound: float = TO_BEAT) -> float | None:
    """The first time from which on the error stays under a bound, or None."""
    reached = None
    for seconds, error in reversed(curve):
        if error >= bound:
            break
        reached = seconds
    return reached


def main(seeds: int = 5, minutes: float = 0.7, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1."""
    if names:
        best = rivals.tuned("augmented", rivals.MINUTES, folder)
        methods = {}
        for name in names:
            _, changes, share = best.get(name, ("plan", {}, 1.0))
            changes = {**SETTINGS["augmented"], **changes}
            methods[name] = partial(one, share * minutes, objective=name, changes=changes, points=POINTS)
        about = (
            f"MNIST, 100 labels, augmented, {minutes:g} min at most, rivals as they were tuned: test error over time"
        )
        record("rivals-curves", about, methods, range(seeds), folder)
        return
    about = f"MNIST, 100 labels, a plan of {minutes:g} min: seconds until the test error stays under {TO_BEAT} %"
    record("mnist-speed", about, {"taut": partial(one, minutes)}, range(seeds), folder)


if __name__ == "__main__":
    counts, words = chosen(rivals.methods_with_labels())
    main(*counts, names=words)
