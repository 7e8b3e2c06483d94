"""TautClassifier: the scikit-learn face of taut."""

from __future__ import annotations

import copy
import dataclasses
import math
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data

from taut import latent
from taut.arguments import as_annotations, as_array, by_name, certain_of, group_names, hole_notes, label_names, seed_of
from taut.baselines import DEFAULT, find_objective
from taut.data.auxiliary import read_auxiliary
from taut.data.cells import CellPolicy, certain, check_policy, chosen_policy, with_policy
from taut.data.dataset import DataError, Dataset, as_images, pixel_max, without_sides_of_one
from taut.evaluate.predict import batches, on_device, predict_probabilities
from taut.export import save_apart
from taut.fit import fit
from taut.labels import LabelError, LabelSpace, Scalar
from taut.nn.vae import LabelVAE
from taut.plan import Plan, check_method, flatten, override, read_plan
from taut.run import Run, load_about
from taut.values import is_missing

MOST_DENSE = 8.0  # gigabytes that sparse vectors may take written out


class TautClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier for few or partly annotated images or feature vectors, by the tighter ELBO (Feng 2019).

    Parameters
    ----------
    minutes: a budget for `fit`; None trains for the planned number of steps.
    plan: changes to the planned decisions, such as {"train.steps": 500, "model.z_dim": 8}, or a plan.yaml.
    objective: the method, one of `taut.baselines.OBJECTIVES`; None for the one that plan names, or "tighter-elbo".
    unlabeled: the value of y that means "not annotated" where y is [N]; None where every value is a class.
        NaN and None in y, and what is masked there, always mean not annotated.
    prevalence: prior probabilities by label ("yes"), LABEL=CLASS, or class of an only label, where annotations do not
        tell them, as when cells are filled in because they are positive or so many of each class were picked.
    uncertain, blank: what −1 and NaN become in a table y [N, k] of yes/no labels: latent (not annotated), positive,
        negative, ignore or soft=P, for all labels or by label ("latent,Edema=positive"). Where uncertain is None, −1 is
        refused, and NaN is latent where blank is; rows of NaN alone, and of −1 alone where it is not
        refused, are not annotated in any case.
    space: the label variables, where y does not speak for itself (soft labels, clusters without annotation).
    random_state: the seed; a RandomState, or numpy's global one for None, is asked for one.
    verbose: whether to show a progress bar and notes.

    Attributes
    ----------
    classes_: the classes [c] of one label, or a list of them for several.
    space_: LabelSpace.  model_: LabelVAE.  plan_: Plan.  notes_: sentences about the training.
    n_features_in_: numbers in one input.  shape_: of one input, [F] or [C, H, W].
    pixel_max_: what counts as white in images, as `pixel_max` says; None where it is guessed from each X.
    """

    def __init__(
        self,
        *,
        minutes: float | None = None,
        plan: dict[str, Any] | str | PathLike[str] | None = None,
        objective: str | None = None,
        unlabeled: Scalar | None = -1,
        space: LabelSpace | None = None,
        prevalence: dict[str, float] | None = None,
        uncertain: str | None = None,
        blank: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.minutes = minutes
        self.plan = plan
        self.objective = objective
        self.unlabeled = unlabeled
        self.space = space
        self.prevalence = prevalence
        self.uncertain = uncertain
        self.blank = blank
        self.random_state = random_state
        self.verbose = verbose

    # --- fitting ------------------------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, auxiliary: Any = None) -> TautClassifier:
        """Train on X, [N, F] features or [N, H, W] / [N, H, W, C] / [N, C, H, W] images, with annotations y.

        Arrays of which at most one side is longer than 1, such as spectra [N, F, 1], are features.
        y: as `LabelSpace.encode` takes them: [N] classes with `unlabeled` for none, or [N, k] with NaN for none.
        groups: [N], such as patients, kept on one side of any split; each that is missing is a group of its own.
        auxiliary: a data frame, or a dictionary of arrays [N], of what else is known of the inputs, such as a patient's
        age: the encoder learns from it, and it is not predicted; missing values may be anywhere.
        Raises LabelError where y is ambiguous, and ValueError where X does not fit.
        """
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes is {self.minutes!r}: expected a positive number, or None")
        if not isinstance(self.space, LabelSpace | None):
            raise TypeError(f"space is {self.space!r}: expected a LabelSpace, or None")
        if not isinstance(self.plan, dict | str | PathLike | None):
            raise TypeError(f"plan is {self.plan!r}: expected a dictionary, the name of a file, or None")
        former = dict(self.__dict__)
        try:
            return self._fit(X, y, groups, auxiliary)
        except BaseException:
            self.__dict__ = former  # a scale, or names of features, that the former model does not have
            raise

    def _fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None, auxiliary: Any) -> TautClassifier:
        x = self._inputs(X, reset=True)
        known, doubtful = self._known(y, self.space)
        check_consistent_length(x, known, groups)
        others = None if auxiliary is None else read_auxiliary(dict(auxiliary), "auxiliary")
        space = self.space or LabelSpace.infer(known, self.unlabeled, label_names(y))
        dataset = dataclasses.replace(
            self._dataset(x, known, doubtful, space),
            groups=None if groups is None else group_names(groups),
            prevalence=dict(self.prevalence or {}),
            auxiliary=others,
        )
        dataset.notes += [
            *([] if self.space else hole_notes(y, self.unlabeled)),
            *([] if others is None else [others.describe()]),
        ]
        changes = self._changes()
        seed = changes["seed"] if self.random_state is None and "seed" in changes else seed_of(self.random_state)
        name, quiet = self.objective or changes.get("objective.name", DEFAULT), not self.verbose
        fitted = fit(dataset, self._change, self.minutes, seed, quiet=quiet, objective=name, tell=self._tell)
        self.notes_ = fitted.notes
        self._keep(fitted.model, fitted.plan)
        return self

    def _known(self, y: Any, space: LabelSpace | None) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Annotations as an array, and its uncertain cells, see `certain_of`."""
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        known = as_annotations(by_name(y, space), self.unlabeled, self.space)
        return (known, None) if self.uncertain is None else certain_of(known, space)

    def _dataset(
        self, x: NDArray[Any], known: NDArray[Any], doubtful: NDArray[np.bool_] | None, space: LabelSpace
    ) -> Dataset:
        """Inputs with annotations, of which uncertain and blank cells are as the parameters say."""
        annotation, ids = space.encode(known, self.unlabeled), [str(i) for i in range(len(x))]
        dataset = Dataset("X", x, space, annotation, ids)
        if self.uncertain is None and self.blank is None:
            return dataset
        check_policy(space, self.uncertain, self.blank)
        policy = chosen_policy(self.uncertain, self.blank, CellPolicy.blank)
        return with_policy(dataset, policy, np.ones(len(x), dtype=bool), doubtful)

    def _tell(self, note: str) -> None:
        if self.verbose:
            print(note, flush=True)

    def _changes(self) -> dict[str, Any]:
        """The changes to the planned decisions by dotted name."""
        if not self.plan:
            return {}
        return flatten(self.plan if isinstance(self.plan, dict) else read_plan(Path(self.plan)))

    def _change(self, plan: Plan) -> Plan:
        changes = self._changes()
        check_method(changes, plan.objective.name, "plan")
        settled = {"seed": plan.seed, "objective.name": plan.objective.name}
        return override(plan, {**changes, **settled}, "plan") if changes else plan

    def _keep(self, model: LabelVAE, plan: Plan) -> None:
        self.model_, self.plan_, self.space_ = model, plan, model.space
        self.shape_ = model.architecture.shape
        self.n_features_in_ = int(np.prod(self.shape_))
        classes = [np.asarray(label.classes) for label in self.space_]
        self.classes_ = classes[0] if len(classes) == 1 else classes

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.architecture.z_dim)

    # --- what goes in -------------------------------------------------------------------------------------

    def _inputs(self, X: ArrayLike, reset: bool = False) -> NDArray[Any]:
        """[N, F] float32, or [N, C, H, W] uint8 or float32 in [0, 1]; refused where fit saw another shape."""
        raw: Any = X if hasattr(X, "columns") or hasattr(X, "toarray") else without_sides_of_one(as_array(X))
        image = getattr(raw, "ndim", 2) in (3, 4)
        x = self._images(raw, reset) if image else self._vectors(raw, reset)
        if not reset and x.shape[1:] != self.shape_:
            raise ValueError(f"X has inputs of shape {x.shape[1:]}, but fit saw {self.shape_}")
        return x

    def _vectors(self, raw: Any, reset: bool) -> NDArray[Any]:
        """Vectors, and sparse ones written out, where memory has room for them."""
        x = validate_data(self, raw, reset=reset, dtype=np.float32, accept_sparse="csr")
        if not issparse(x):
            return np.asarray(x)
        rows, columns = x.shape
        if (size := 4e-9 * rows * columns) > MOST_DENSE:
            raise ValueError(
                f"X is sparse, and its {rows:,} x {columns:,} numbers take {size:.1f} GB written out: make fewer "
                "columns of them, as sklearn.decomposition.TruncatedSVD does"
            )
        return np.asarray(x.toarray())

    def _images(self, raw: NDArray[Any], reset: bool) -> NDArray[Any]:
        """Images on the scale that fit saw, so that no image's prediction depends on the others of its array."""
        x = check_array(raw, ensure_2d=False, allow_nd=True, estimator=self, input_name="X")
        if reset:
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            self.pixel_max_: float | None = pixel_max(x)
        channels = self.shape_[0] if not reset and len(self.shape_) == 3 else None
        return as_images(x, "X", getattr(self, "pixel_max_", None), channels)

    # --- predicting ---------------------------------------------------------------------------------------

    def _probabilities(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self, "model_")
        return predict_probabilities(self.model_, self._inputs(X))

    def predict_proba(self, X: ArrayLike) -> Any:
        """Probabilities: [N, c]; [N, k] of "yes" for k yes/no labels; a list of [N, c_j] for a mix.

        They are calibrated where annotations sufficed.
        """
        q = self._probabilities(X)
        if len(self.space_) == 1:
            return q
        if self.space_.binary:
            return q[:, 1::2]
        return [q[:, block] for block in self.space_.blocks]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable classes: [N] of one label, [N, k] of several.

        Never the thresholds of `taut predict`, which are in `model_.threshold`: scikit-learn's tools expect of a
        classifier that it predicts what `predict_proba` says.
        """
        q = self._probabilities(X)
        return self.space_.predict(q)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy over the annotated cells of y, a fraction; blank ones are what `blank` says.

        A class that fit never saw counts as wrong; in a table of several labels it raises LabelError, and so do numbers
        where the classes are text, and text where they are numbers.
        """
        predicted = self.predict(X)
        known, doubtful = self._known(y, self.space_)
        check_consistent_length(predicted, known, sample_weight)
        if known.ndim == 1 and len(self.space_) == 1 and self.blank is None:
            observed = ~is_missing(known, self.unlabeled)[:, None]
            said, classes = {isinstance(value, str) for value in known[observed[:, 0]]}, self.space_.labels[0].classes
            if said and isinstance(classes[0], str) not in said:
                kind, other = ("text", "y is not") if isinstance(classes[0], str) else ("numbers", "y is text")
                raise LabelError(f"the classes are {kind}, such as {classes[0]!r}, but {other}: none could be right")
            right = np.asarray(predicted == known, dtype=bool)[:, None]
        else:
            blank = np.zeros((len(known), 1), dtype=np.float32)
            truth = certain(self._dataset(blank, known, doubtful, self.space_)).annotation
            guess = self.space_.encode(predicted, None)
            observed, best = truth.observed, np.nan_to_num(truth.targets)
            right = np.stack(
                [best[:, b].argmax(1) == guess.targets[:, b].argmax(1) for b in self.space_.blocks], axis=1
            )
        if not observed.any():
            raise ValueError("y has no annotated cell: there is nothing to score")
        weight = np.ones(len(right)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        return float(np.average(right[observed], weights=np.broadcast_to(weight[:, None], observed.shape)[observed]))

    # --- the generative side ------------------------------------------------------------------------------

    def _check_decoder(self) -> None:
        check_is_fitted(self, "model_")
        chosen = self.plan_.objective
        if not find_objective(chosen.name).decodes(self.plan_):
            why = "" if chosen.reconstruction else " with objective.reconstruction 0"
            raise DataError(f"the objective {chosen.name!r}{why} never trained z and the decoder: they give noise")

    @torch.no_grad()
    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """The means of q(z|x): [N, z_dim]; DataError where the objective trains no decoder, and with it no z."""
        self._check_decoder()
        means = [self.model_.encode(x).mean for x in batches(self.model_, self._inputs(X))]
        return np.asarray(torch.cat(means).cpu().numpy())

    @torch.no_grad()
    def sample(self, labels: ArrayLike, random_state: int | np.random.RandomState | None = None) -> NDArray[np.float32]:
        """Draws E[x|z,c] with z ~ N(0, I) and the given labels (as y in `fit`; unannotated ones from the prior).

        Returns [N, C, H, W] images in [0, 1], at the decoder's resolution, or [N, F] features in their own units.
        Raises DataError where the objective trains no decoder.
        """
        self._check_decoder()
        model = self.model_
        annotation = self.space_.encode(self._known(labels, self.space_)[0], self.unlabeled)
        generator = torch.Generator().manual_seed(seed_of(random_state))
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
        """E[x|z,c] at the mean of q(z|x) and at the probabilities of q(c|x): [N, C, H, W] or [N, F] as `sample`.

        Raises DataError where the objective trains no decoder.
        """
        self._check_decoder()
        parts = []
        for x in batches(self.model_, self._inputs(X)):
            posterior = self.model_.encode(x)
            c = self.model_.log_probabilities(posterior.logits, calibrated=False).exp()
            parts.append(self.model_.mean_image(self.model_.decode(posterior.mean, c)).cpu().numpy())
        return np.concatenate(parts)

    # --- keeping ------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write the model as safetensors and JSON, in the place of one that is there; DataError where that is a run's.

        `load`, `--frozen`, `taut predict`, `taut explain` and `taut evaluate --data` read it.
        """
        check_is_fitted(self, "model_")
        about: dict[str, Any] = {
            "unlabeled": self.unlabeled.item() if isinstance(self.unlabeled, np.generic) else self.unlabeled,
            "pixel_max": getattr(self, "pixel_max_", None),
            "feature_names": [str(name) for name in getattr(self, "feature_names_in_", [])],
            "plan": dataclasses.asdict(self.plan_),
            "prevalence": self.prevalence and {str(name): float(p) for name, p in self.prevalence.items()},
            "uncertain": self.uncertain,
            "blank": self.blank,
        }
        save_apart(self.model_, Path(folder), about)

    @classmethod
    def load(cls, folder: Path | str) -> TautClassifier:
        """A fitted classifier from a folder that `save` or `taut train` wrote; DataError where there is none.

        Its parameters are the decisions of that training, so that `fit` on the same data repeats it.
        """
        run = Run(folder)
        model, plan, about = on_device(run.load_model()), run.load_plan(), load_about(run.path)
        changes, read = dataclasses.asdict(plan), about if "plan" in about else run.source()
        seed = changes.pop("seed")
        estimator = cls(
            plan=changes,
            unlabeled=run.unlabeled(),
            space=model.space,
            prevalence=about.get("prevalence"),
            uncertain=read.get("uncertain"),
            blank=read.get("blank"),
            random_state=seed,
        )
        estimator.notes_, estimator.pixel_max_ = [], about.get("pixel_max")
        if about.get("feature_names"):
            estimator.feature_names_in_ = np.asarray(about["feature_names"], dtype=object)
        estimator._keep(model, plan)
        return estimator

    def __getstate__(self) -> Any:
        """What is pickled: the model on the CPU, so that a machine without a GPU can read it."""
        state = super().__getstate__()
        model = state.get("model_")
        if model is None or model.log_prior.device.type == "cpu":
            return state
        return {**state, "model_": copy.deepcopy(model).cpu()}

    def __sklearn_tags__(self) -> Any:
        """scikit-learn's tags: what inputs are understood."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
