from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from taut.build import build_model
from taut.evaluate.calibration import calibrate
from taut.evaluate.metrics import evaluate
from taut.evaluate.ood import fit_ood, ood_scores
from taut.evaluate.predict import predict_probabilities
from taut.evaluate.predictions import prediction_table
from taut.facts import fingerprint
from taut.labels import LabelSpace
from taut.nn.vae import LabelVAE
from taut.report.explain import explain
from taut.rules import make_plan
from tiny import images, tiny


class OnDevice(Tensor):
    """A tensor as on an Apple GPU: there is no float64, and what is computed with it stays there."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_function__(func, types, args, kwargs or {})
        moved = func is Tensor.to and len(args) > 1 and isinstance(args[1], torch.device)
        if isinstance(found, cls) and (func is Tensor.cpu or moved):
            return found.as_subclass(Tensor)
        if isinstance(found, cls) and found.dtype == torch.float64:
            raise TypeError("the device has no float64")
        return found


DATA = images(np.random.default_rng(0).integers(0, 2, (200, 2)).astype(float), LabelSpace.multilabel(["a", "b"]))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LabelVAE:
    """A model whose buffers and inputs, and so all that it computes, are on such a device."""
    facts = fingerprint(DATA)
    made = build_model(DATA, tiny()(make_plan(facts)), facts).eval()
    for name in ("log_prior", "temperature", "threshold"):
        made._buffers[name] = getattr(made, name).as_subclass(OnDevice)
    usual = made.prepare
    monkeypatch.setattr(made, "prepare", lambda x: usual(x).as_subclass(OnDevice))
    return made


@pytest.mark.parametrize(
    "use",
    [
        lambda model: predict_probabilities(model, DATA.x),
        lambda model: prediction_table(model, DATA.ids, DATA.x),
        lambda model: evaluate(model, DATA),
        lambda model: explain(model, DATA.x[:1], "a"),
        lambda model: calibrate(model, DATA, "isotonic"),
    ],
    ids=["predict", "table", "evaluate", "explain", "calibrate"],
)
def test_nothing_asks_the_device_for_float64(use: Callable[[LabelVAE], Any], model: LabelVAE) -> None:
    with pytest.raises(TypeError, match="the device has no float64"):
        model.prepare(torch.from_numpy(DATA.x[:1])).double()
    use(model)


def test_scores_of_foreign_images_ask_the_device_for_no_float64(model: LabelVAE) -> None:
    model.ood = fit_ood(model, DATA.x, DATA.x, decodes=True)
    assert np.isfinite(ood_scores(model, DATA.x)).all()
