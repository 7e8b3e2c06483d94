"""What `taut predict` writes: probabilities, decisions and how foreign an image is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.evaluate.ood import OODReference, ood_percentiles, ood_scores
from taut.evaluate.predict import predict_posterior
from taut.nn.vae import LabelVAE


def prediction_table(model: LabelVAE, names: Sequence[str], x: NDArray[Any]) -> pd.DataFrame:
    """The predictions of raw inputs [N, ...], a row for each image of these names.

    Columns: image; of a label with the classes 0 and 1, LABEL:probability and LABEL:calibrated of class 1, of any other
    label LABEL=CLASS:probability and LABEL=CLASS:calibrated of each class; LABEL:decision, at the label's threshold of
    the calibrated probability (the most probable of more than two classes); ood:score and ood:percentile, see
    `taut.evaluate.ood`, empty where the model has no reference.
    """
    posterior = predict_posterior(model, x)
    logits = posterior.logits.double()
    plain, calibrated = (model.log_probabilities(logits, with_it).exp().numpy() for with_it in (False, True))
    thresholds = model.threshold.cpu().numpy().astype(float)
    decided = model.space.predict(calibrated, thresholds).reshape(len(names), -1)
    columns: dict[str, Any] = {"image": list(names)}
    for j, (label, block) in enumerate(zip(model.space, model.space.blocks, strict=True)):
        yes_no = label.classes == (0, 1)
        for c, value in enumerate(label.classes):
            if not (yes_no and c == 0):
                name = label.name if yes_no else f"{label.name}={value}"
                columns[f"{name}:probability"] = plain[:, block][:, c]
                columns[f"{name}:calibrated"] = calibrated[:, block][:, c]
        columns[f"{label.name}:decision"] = decided[:, j]
    known = isinstance(model.ood, OODReference)
    scores = ood_scores(model, x, posterior) if known else np.full(len(names), np.nan)
    columns["ood:score"] = scores
    columns["ood:percentile"] = ood_percentiles(model, scores) if known else scores
    return pd.DataFrame(columns)
