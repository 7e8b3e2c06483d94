"""TautClassifier: the scikit-learn face of taut."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from taut import latent
from taut.data.dataset import Dataset, as_images
from taut.evaluate.predict import batches, predict_posterior, predict_probabilities
from taut.fit import fit
from taut.labels import LabelSpace, Scalar
from taut.nn.vae import LabelVAE
from taut.plan import Plan, override
from taut.run import load_model, save_model


class TautClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier for few or partly annotated images or feature vectors, by the tighter ELBO (Feng 2019).

    Parameters
    ----------
    minutes: a budget for `fit`; None trains for the planned number of steps.
    plan: changes to the planned decisions, such as {"train.steps": 500, "model.z_dim": 8}.
    unlabeled: the value of y that means "not annotated" where y is [N]; None where every value is a class.
        NaN in y always means not annotated.
    space: the label variables, where y does not speak for itself (soft labels, clusters without annotation).
    random_state: the seed.
    verbose: whether to show a progress bar.

    Attributes
    ----------
    classes_: the classes [c] of one label, or a list of them for several.
    space_: LabelSpace.  model_: LabelVAE.  plan_: Plan.  n_features_in_: numbers in one input.
    """

    def __init__(
        self,
        *,
        minutes: float | None = None,
        plan: dict[str, Any] | None = None,
        unlabeled: Scalar | None = -1,
        space: LabelSpace | None = None,
        random_state: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.minutes = minutes
        self.plan = plan
        self.unlabeled = unlabeled
        self.space = space
        self.random_state = random_state
        self.verbose = verbose

    # --- fitting ------------------------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> TautClassifier:
        """Train on X, [N, F] features or [N, H, W] / [N, H, W, C] / [N, C, H, W] images, with annotations y.

        y: as `LabelSpace.encode` takes them: [N] classes with `unlabeled` for none, or [N, k] with NaN for none.
        groups: [N], such as patients, kept on one side of any split.
        Raises LabelError where y is ambiguous, and ValueError where X does not fit.
        """
        X = self._inputs(X, reset=True)
        y = self._annotations(y, len(X))
        self.space_ = self.space if self.space is not None else LabelSpace.infer(y, self.unlabeled)
        seed = _seed(self.random_state)
        dataset = Dataset(
            name="X",
            x=X,
            space=self.space_,
            annotation=self.space_.encode(y, self.unlabeled),
            ids=[str(i) for i in range(len(X))],
            groups=None if groups is None else np.asarray(groups),
        )
        fitted = fit(dataset, self._change, self.minutes, seed, quiet=not self.verbose)
        self.model_: LabelVAE = fitted.model
        self.plan_: Plan = fitted.plan
        self._name_classes()
        return self

    def _change(self, plan: Plan) -> Plan:
        return override(plan, self.plan, "plan") if self.plan else plan

    def _name_classes(self) -> None:
        classes = [np.asarray(label.classes) for label in self.space_]
        self.classes_ = classes[0] if len(classes) == 1 else classes

    def _inputs(self, X: ArrayLike, reset: bool) -> NDArray[Any]:
        raw = np.asarray(X) if not hasattr(X, "iloc") and not hasattr(X, "toarray") else X
        if getattr(raw, "ndim", 2) in (3, 4):
            images = as_images(raw, "X")  # type: ignore[arg-type]
            if reset:
                self.n_features_in_ = int(np.prod(images.shape[1:]))
                self.shape_ = images.shape[1:]
            elif images.shape[1:] != self.shape_:
                raise ValueError(f"X has inputs of shape {images.shape[1:]}, but fit saw {self.shape_}")
            return images
        features: NDArray[Any] = validate_data(self, X, reset=reset, dtype=np.float32)
        if reset:
            self.shape_ = features.shape[1:]
        elif features.shape[1:] != self.shape_:
            raise ValueError(f"X has inputs of shape {features.shape[1:]}, but fit saw {self.shape_}")
        return features

    def _annotations(self, y: ArrayLike, n: int) -> NDArray[Any]:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        array = np.asarray(y)
        if array.ndim == 2 and array.shape[1] == 1 and self.space is None:
            from sklearn.utils.validation import column_or_1d

            array = column_or_1d(array, warn=True)
        if len(array) != n:
            raise ValueError(f"Found input variables with inconsistent numbers of samples: {[n, len(array)]}")
        if self.space is None and array.ndim == 1 and array.dtype.kind == "f" and np.isfinite(array).all():
            check_classification_targets(array)
        return array

    # --- predicting ---------------------------------------------------------------------------------------

    def predict_proba(self, X: ArrayLike) -> Any:
        """Calibrated probabilities: [N, c]; [N, k] of "yes" for k yes/no labels; a list of [N, c_j] for a mix."""
        check_is_fitted(self, "model_")
        q = predict_probabilities(self.model_, self._inputs(X, reset=False))
        if len(self.space_) == 1:
            return q
        if self.space_.binary:
            return q[:, 1::2]
        return [q[:, block] for block in self.space_.blocks]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable classes: [N] of one label, [N, k] of several."""
        check_is_fitted(self, "model_")
        return self.space_.predict(predict_probabilities(self.model_, self._inputs(X, reset=False)))

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy over the annotated cells of y, a fraction."""
        known = self.space_.encode(np.asarray(y), self.unlabeled) if hasattr(self, "space_") else None
        predicted = self.space_.encode(self.predict(X), None)
        assert known is not None
        right = np.zeros_like(known.observed, dtype=float)
        for j, block in enumerate(self.space_.blocks):
            right[:, j] = np.nan_to_num(known.targets[:, block]).argmax(1) == predicted.targets[:, block].argmax(1)
        weight = np.ones(len(right)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        return float(np.average(right[known.observed], weights=(known.observed * weight[:, None])[known.observed]))

    # --- the generative side ------------------------------------------------------------------------------

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """The means of q(z|x): [N, z_dim]."""
        check_is_fitted(self, "model_")
        return np.asarray(predict_posterior(self.model_, self._inputs(X, reset=False)).mean.numpy())

    @torch.no_grad()
    def sample(self, labels: ArrayLike, random_state: int | None = None) -> NDArray[np.float32]:
        """Draws E[x|z,c] with z ~ N(0, I) and the given labels (as y in `fit`; unannotated ones from the prior).

        Returns [N, C, H, W] images in [0, 1], or [N, F] features in their own units.
        """
        check_is_fitted(self, "model_")
        model = self.model_
        annotation = self.space_.encode(np.asarray(labels), self.unlabeled)
        generator = torch.Generator().manual_seed(_seed(random_state))
        prior = model.log_prior.cpu().expand(len(annotation), -1)
        noise = -torch.empty(prior.shape).exponential_(generator=generator).log()
        observed = torch.from_numpy(annotation.observed)
        wanted = torch.from_numpy(annotation.targets).clamp_min(1e-30).log()
        log_p = torch.where(latent.spread_labels(observed, model.sizes), wanted, prior)
        c = latent.hard_sample(log_p, model.sizes, noise)
        z = torch.randn(len(c), model.architecture.z_dim, generator=generator)
        device = model.log_prior.device
        return np.asarray(model.mean_image(model.decode(z.to(device), c.to(device))).cpu().numpy())

    @torch.no_grad()
    def reconstruct(self, X: ArrayLike) -> NDArray[np.float32]:
        """E[x|z,c] at the mean of q(z|x) and at the probabilities of q(c|x): [N, C, H, W] or [N, F]."""
        check_is_fitted(self, "model_")
        parts = []
        for x in batches(self.model_, self._inputs(X, reset=False)):
            posterior = self.model_.encode(x)
            c = self.model_.log_probabilities(posterior.logits, calibrated=False).exp()
            parts.append(self.model_.mean_image(self.model_.decode(posterior.mean, c)).cpu().numpy())
        return np.concatenate(parts)

    # --- keeping ------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write the model as safetensors and JSON; `load` and the command line read it."""
        check_is_fitted(self, "model_")
        about = {"unlabeled": self.unlabeled, "plan": dataclasses.asdict(self.plan_)}
        save_model(self.model_, Path(folder), about)

    @classmethod
    def load(cls, folder: Path | str) -> TautClassifier:
        """A fitted classifier from a folder that `save` or `taut train` wrote; DataError where there is none."""
        model = load_model(Path(folder))
        estimator = cls(space=model.space)
        estimator.model_, estimator.space_ = model, model.space
        estimator.shape_ = model.architecture.shape
        estimator.n_features_in_ = int(np.prod(model.architecture.shape))
        estimator._name_classes()
        return estimator

    def __sklearn_tags__(self) -> Any:
        """scikit-learn's tags: what inputs are understood."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        tags.non_deterministic = False
        return tags


def _seed(random_state: Any) -> int:
    """A seed from an integer, a RandomState, or the system's entropy where it is None."""
    return random_state if isinstance(random_state, int) else int(check_random_state(random_state).randint(2**31 - 1))
