"""TautClassifier: scikit-learn's own checks, every form of X and y, the generative side, and save and load."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

from taut import cli
from taut import fit as fit_room
from taut.arguments import group_names
from taut.data.dataset import DataError
from taut.data.mapped import MappedRows
from taut.estimator import TautClassifier
from taut.evaluate.predict import predict_probabilities
from taut.labels import Label, LabelError, LabelSpace
from taut.run import Run
from tiny import FLAGS

Array = NDArray[Any]

# Without folds, which repeat every training; they have tests of their own.
SMALL = {"train.folds": 0, "train.steps": 60, "model.width": 32, "model.decoder_width": 32}
TINY = {"train.folds": 0, "train.steps": 10, "model.width": 8, "model.decoder_width": 8}
BRIEF = {**TINY, "train.steps": 250, "train.batch_unlabelled": 64}

MIX = LabelSpace((Label("shape", ("round", "square", "long")), Label("broken", (0, 1))))


# --- scikit-learn's own checks ------------------------------------------------------------------------------

# scikit-learn itself skips two of them: one needs SCIPY_ARRAY_API in the environment before Python starts, and the
# other is about decision_function, which there is none of.
MINUS_ONE = "two of its classes are -1 and 1, and -1 means unannotated by default; it passes with unlabeled=None, below"


@parametrize_with_checks(
    [TautClassifier(plan=SMALL)], expected_failed_checks=lambda _: {"check_classifiers_classes": MINUS_ONE}
)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_minus_one_is_a_class_where_nothing_is_unlabeled() -> None:
    check_classifiers_classes("TautClassifier", TautClassifier(plan=SMALL, unlabeled=None))


# --- data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4))
    return x, (x[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def table(features: tuple[Array, Array]) -> Array:
    """Two yes/no labels with holes."""
    x, y = features
    cells = np.stack([y, x[:, 1] > 0], axis=1).astype(float)
    cells[::3, 0] = cells[1::4, 1] = np.nan
    return cells


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array]:
    bunch = load_digits()
    return bunch.images, bunch.target


@pytest.fixture(scope="module")
def trained(digits: tuple[Array, Array]) -> TautClassifier:
    """Trained on 600 digits, of which every fourth is annotated."""
    images, y = digits
    known = np.where(np.arange(600) % 4 == 0, y[:600], -1)
    return TautClassifier(plan=BRIEF, random_state=0).fit(images[:600], known)


def tiny(**parameters: Any) -> TautClassifier:
    return TautClassifier(**{"plan": TINY, "random_state": 0, **parameters})


def images_of(shape: tuple[int, ...], dtype: Any = np.uint8, n: int = 24) -> Array:
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(dtype)


def test_a_seed_of_a_plan_gives_way_to_random_state() -> None:
    x, y = images_of((8, 8)), np.arange(24) % 2
    plan = {**TINY, "seed": 3}
    seeds = [tiny(plan=plan, random_state=state).fit(x, y).plan_.seed for state in (0, 1, None)]
    assert seeds == [0, 1, 3]


def test_columns_of_a_data_frame_go_by_their_names() -> None:
    x = images_of((8, 8))
    y = pd.DataFrame({"b": np.arange(24) % 2, "a": np.arange(24) % 3 == 0}).astype(float)
    space = LabelSpace.multilabel(["a", "b"])
    one, other = (tiny(space=space).fit(x, frame) for frame in (y, y[["a", "b"]]))
    np.testing.assert_array_equal(one.predict_proba(x), other.predict_proba(x))
    assert one.score(x, y) == one.score(x, y[["a", "b"]]) == one.score(x, y[["a", "b"]].to_numpy())


@pytest.mark.parametrize("dtype", ["Int64", "boolean"])
def test_arrays_of_pandas_may_have_holes(dtype: str) -> None:
    y = pd.array([0, 1, None] * 8, dtype=dtype)
    assert list(tiny().fit(images_of((8, 8)), y).classes_) == [0, 1]


# --- X ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "prepared"),
    [((8, 9), (1, 8, 9)), ((8, 9, 3), (3, 8, 9)), ((3, 8, 9), (3, 8, 9)), ((8, 8, 1), (1, 8, 8)), ((7,), (7,))],
)
def test_images_of_every_layout_and_features(shape: tuple[int, ...], prepared: tuple[int, ...]) -> None:
    x, y = images_of(shape), np.arange(24) % 2
    model = tiny().fit(x, y)
    assert model.shape_ == prepared
    assert model.n_features_in_ == np.prod(prepared)
    assert model.predict_proba(x).shape == (24, 2)
    assert model.transform(x).shape == (24, model.plan_.model.z_dim)
    assert model.reconstruct(x).shape == (24, *prepared)
    assert model.sample(y[:5]).shape == (5, *prepared)
    if len(prepared) == 3:
        first = x if x.shape[1:] == prepared else x.reshape(24, *shape[:2], -1).transpose(0, 3, 1, 2)
        same = tiny().fit(first, y)
        np.testing.assert_array_equal(model.predict_proba(x), same.predict_proba(first))
        np.testing.assert_array_equal(model.reconstruct(x), same.reconstruct(first))


@pytest.mark.parametrize("shape", [(60, 8, 8), (60, 8, 8, 3), (60, 5)])
def test_a_memory_map_stays_on_the_disk(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, shape, dtype=np.uint8) if len(shape) > 2 else rng.normal(size=shape).astype(np.float32)
    there = np.memmap(tmp_path / "x", dtype=x.dtype, mode="w+", shape=shape)
    there[:] = x
    trained_on: list[Any] = []
    usual = fit_room.build_stream
    monkeypatch.setattr(
        fit_room, "build_stream", lambda data, *rest: (trained_on.append(data.x), usual(data, *rest))[1]
    )
    # Some rows in between are held out, so that the others are no slice of the array.
    model = tiny(plan={**TINY, "train.valid_fraction": 0.3}, random_state=0).fit(there, np.arange(60) % 3)
    assert trained_on
    for rows in trained_on:
        assert isinstance(rows, MappedRows)
        assert 0 < len(rows) < 60
        assert np.may_share_memory(rows.base, there)
    expected = clone(model).fit(x, np.arange(60) % 3).predict_proba(x)
    np.testing.assert_array_equal(model.predict_proba(there), expected)


def test_a_tensor_and_a_list_are_read_as_the_array_is() -> None:
    x, y = images_of((8, 8)), np.arange(24) % 2
    model = tiny().fit(x, y)
    expected = model.predict_proba(x)
    np.testing.assert_allclose(model.predict_proba(x.tolist()), expected, atol=1e-5)
    tensor = torch.from_numpy(x)
    np.testing.assert_array_equal(tiny().fit(tensor, torch.from_numpy(y)).predict_proba(tensor), expected)


@pytest.mark.parametrize("top", [1.0, 16.0, 255.0, 4000.0, 65535.0])
def test_an_images_prediction_does_not_depend_on_the_brightest_of_its_array(top: float) -> None:
    x = images_of((6, 6), np.float64) / 255 * top
    x[:4] *= 0.01
    x = np.round(x) if top > 16 else x
    model = tiny().fit(x, np.arange(24) % 2)
    assert model.pixel_max_ == pytest.approx(top, rel=0.01)
    whole = model.predict_proba(x)
    single = np.concatenate([model.predict_proba(x[i : i + 1]) for i in range(24)])
    np.testing.assert_allclose(single, whole, atol=1e-5)


@pytest.mark.parametrize("top", [1, 16, 100])
def test_bytes_have_the_scale_of_the_training_images(top: int) -> None:
    x = np.round(images_of((6, 6), np.float64) / 255 * top)
    model = tiny().fit(x, np.arange(24) % 2)
    np.testing.assert_allclose(model.predict_proba(x.astype(np.uint8)), model.predict_proba(x), atol=1e-5)


@pytest.mark.parametrize("top", [1, 16])
def test_bytes_on_a_small_scale_are_read_as_numbers_are(top: int) -> None:
    x = np.round(images_of((6, 6), np.float64) / 255 * top)
    y = np.arange(24) % 2
    model = tiny().fit(x.astype(np.uint8), y)
    assert model.pixel_max_ == top
    np.testing.assert_array_equal(model.predict_proba(x.astype(np.uint8)), tiny().fit(x, y).predict_proba(x))


def test_bytes_that_are_plainly_of_0_to_255_keep_their_scale() -> None:
    pixels = images_of((6, 6))
    for top in (1.0, 4000.0, 65535.0):
        x = pixels / 255 * top
        model = tiny().fit(x, np.arange(24) % 2)
        assert model.pixel_max_ == top
        np.testing.assert_allclose(model.predict_proba(pixels), model.predict_proba(x), atol=1e-5)
    model = tiny().fit(pixels / 255 * 16, np.arange(24) % 2)
    with pytest.raises(DataError, match="pixel values from 0 to 255: expected 0 to 16"):
        model.predict_proba(pixels)


def test_floats_on_the_same_scale_are_read_as_bytes_are() -> None:
    x = images_of((6, 6))
    model = tiny().fit(x, np.arange(24) % 2)
    np.testing.assert_allclose(model.predict_proba(x.astype(float)), model.predict_proba(x), atol=1e-5)


def test_a_refit_forgets_the_names_of_columns(features: tuple[Array, Array]) -> None:
    x, y = features
    model = tiny().fit(pd.DataFrame(x, columns=list("abcd")), y)
    assert list(model.feature_names_in_) == list("abcd")
    images = images_of((6, 6))
    model.fit(images, np.arange(24) % 2)
    assert not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (images_of((6, 6))[:, :5], r"inputs of shape \(1, 5, 6\), but fit saw \(1, 6, 6\)"),
        (images_of((36,)), r"inputs of shape \(36,\), but fit saw"),
        (images_of((5,)), "X has 5 features, but TautClassifier is expecting 36 features"),
        (images_of((6, 6))[:0], "0 sample"),
        (images_of((6, 6), float) / 255, "expected 0 to 255"),
        (images_of((6, 6), float) - 100, "pixel values from -100 to"),
        (images_of((6, 6), float) * 257, "expected 0 to 255"),
        (images_of((6, 6), complex), "Complex data not supported"),
        (np.full((2, 6, 6), np.nan), "contains NaN"),
        (np.full((2, 6, 6), "a"), "numeric"),
        (images_of((2, 2, 3, 3)), "dim 5"),
        (np.tile(images_of((6, 6)), (1, 2, 2))[..., None].repeat(5, 3), r"inputs of shape \(5, 12, 12\), but fit saw"),
        (images_of((6, 6, 6)), r"neither feature vectors \[N, F\] nor images"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x: Array, sentence: str) -> None:
    model = tiny(plan={**TINY, "train.steps": 1}).fit(images_of((6, 6)), np.arange(24) % 2)
    with pytest.raises(ValueError, match=sentence):
        model.predict(x)


# --- y ------------------------------------------------------------------------------------------------------


def _mixed(y: Array) -> Array:
    cells = np.stack([np.array(["round", "long"], dtype=object)[y], y.astype(object)], axis=1)
    cells[0, 0] = cells[1, 1] = None
    return cells


@pytest.mark.parametrize(
    ("make", "classes", "hole"),
    [
        (lambda y: np.r_[-1, y[1:]], [0, 1], True),
        (lambda y: np.r_[np.nan, y[1:]], [0, 1], True),
        (lambda y: np.where(y, "yes", "no"), ["no", "yes"], False),
        (lambda y: [-1, *np.where(y[1:], "yes", "no")], ["no", "yes"], True),
        (lambda y: [float("nan"), *np.where(y[1:], "yes", "no")], ["no", "yes"], True),
        (lambda y: y.astype(bool), [False, True], False),
        (lambda y: pd.Series([None, *y[1:]], dtype="Int64"), [0, 1], True),
        (lambda y: pd.Series([None, *np.where(y[1:], "yes", "no")], dtype="string"), ["no", "yes"], True),
        (lambda y: pd.Series(np.where(y, "yes", "no")).astype("category"), ["no", "yes"], False),
        (lambda y: pd.Categorical([None, *np.where(y[1:], "yes", "no")]), ["no", "yes"], True),
        (lambda y: pd.array([None, *np.where(y[1:], "yes", "no")], dtype="string"), ["no", "yes"], True),
        (lambda y: [pd.NA, *y[1:].tolist()], [0, 1], True),
        (lambda y: np.ma.masked_equal(np.r_[7, y[1:]], 7), [0, 1], True),
        (lambda y: np.ma.masked_equal(np.array(["?", *np.where(y[1:], "yes", "no")]), "?"), ["no", "yes"], True),
    ],
)
def test_one_label_in_every_form(features: tuple[Array, Array], make: Any, classes: list[Any], hole: bool) -> None:
    x, y = features
    annotations = make(y)
    model = tiny().fit(x, annotations)
    assert model.classes_.tolist() == classes
    same = tiny().fit(x, np.r_[-1, y[1:]] if hole else y)
    np.testing.assert_array_equal(model.predict_proba(x), same.predict_proba(x))
    np.testing.assert_array_equal(model.predict(x), np.asarray(classes)[same.predict(x)])
    assert model.score(x, annotations) == same.score(x, np.r_[-1, y[1:]] if hole else y)


@pytest.mark.parametrize("names", [("a", "b"), (1, 2), (1.0, 2.0)])
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_group_is_one_of_its_own(features: tuple[Array, Array], names: Any, missing: Any) -> None:
    x, y = features
    groups = [missing, *names, missing, *names * 18]
    found = group_names(groups)
    assert found.tolist() == ["X:0", *map(str, names), "X:3", *map(str, names * 18)]
    assert group_names(np.ma.masked_equal([1, 0, 2], 0)).tolist() == ["1", "X:1", "2"]
    assert group_names(pd.Series(groups)).tolist()[0] == "X:0"
    if missing is None and names == ("a", "b"):
        assert tiny().fit(x, y, groups=groups).predict(x).shape == (40,)


def test_another_value_may_mean_unannotated(features: tuple[Array, Array]) -> None:
    x, y = features
    text = np.where(np.arange(40) < 9, "?", np.where(y, "yes", "no"))
    assert tiny(unlabeled="?").fit(x, text).classes_.tolist() == ["no", "yes"]
    assert tiny(unlabeled=None).fit(x, 2 * y - 1).classes_.tolist() == [-1, 1]


def test_yes_no_labels_with_holes(features: tuple[Array, Array], table: Array) -> None:
    x, _ = features
    frame = pd.DataFrame(table, columns=["left", "right"])
    expected = tiny().fit(x, table).predict_proba(x)
    assert expected.shape == (40, 2)
    # As numbers, as pandas' own integers, and as the objects that a CSV file of true, false and blanks gives.
    objects = frame.astype(object).where(frame.notna(), None).replace({0.0: False, 1.0: True})
    masked = np.ma.masked_array(np.nan_to_num(table, nan=1), np.isnan(table))
    for cells in (frame, frame.convert_dtypes(), objects, masked, masked.astype(int)):
        model = tiny().fit(x, cells)
        assert model.space_.names == (("left", "right") if hasattr(cells, "columns") else ("label_0", "label_1"))
        np.testing.assert_array_equal(model.predict_proba(x), expected)
        assert [c.tolist() for c in model.classes_] == [[0, 1], [0, 1]]
        np.testing.assert_array_equal(model.predict(x), (expected > 0.5).astype(int))


def test_soft_labels_and_a_mix_need_a_space(features: tuple[Array, Array]) -> None:
    x, y = features
    soft = np.stack([0.9 - 0.8 * y, 0.1 + 0.8 * y], axis=1)
    soft[3] = np.nan
    model = tiny(space=LabelSpace.multiclass(["no", "yes"])).fit(x, soft)
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.predict_proba(x).shape == (40, 2)
    assert 0 <= model.score(x, soft) <= 1
    with pytest.raises(LabelError, match="soft labels need an explicit LabelSpace"):
        tiny().fit(x, soft)
    mix = tiny(space=MIX).fit(x, _mixed(y))
    assert [q.shape for q in mix.predict_proba(x)] == [(40, 3), (40, 2)]
    assert mix.predict(x).shape == (40, 2)
    assert 0 <= mix.score(x, _mixed(y)) <= 1
    with pytest.raises(LabelError, match="dtype object is ambiguous"):
        tiny().fit(x, _mixed(y))


def test_without_any_annotation_the_classes_are_clusters(features: tuple[Array, Array]) -> None:
    x, _ = features
    model = tiny(space=LabelSpace.multiclass(3)).fit(x, np.full(40, -1))
    assert model.predict_proba(x).shape == (40, 3)
    with pytest.raises(LabelError, match="pass an explicit LabelSpace"):
        tiny().fit(x, np.full(40, -1))


def test_one_column_is_one_label_with_scikit_learns_warning(features: tuple[Array, Array]) -> None:
    x, y = features
    with pytest.warns(DataConversionWarning, match="1d array was expected"):
        assert tiny().fit(x, y[:, None]).predict(x).shape == (40,)


@pytest.mark.parametrize(
    ("parameters", "change", "error", "sentence"),
    [
        ({}, {"y": None}, ValueError, "requires y to be passed, but the target y is None"),
        ({}, {"y": np.zeros(7)}, ValueError, r"inconsistent numbers of samples: \[40, 7\]"),
        ({}, {"groups": [1, 2]}, ValueError, r"inconsistent numbers of samples: \[40, 40, 2\]"),
        ({}, {"y": np.arange(40) / 7}, LabelError, "Unknown label type: continuous"),
        ({}, {"y": np.arange(40) % 2 * 2 - 1}, LabelError, "has 1 class .* if -1 is one of them, say unlabeled=None"),
        ({}, {"y": np.array(["a", "-1"] * 20)}, LabelError, "y is text with '-1' in it"),
        (
            {},
            {"y": np.array([["a"], ["b"]] * 20).repeat(2, 1)},
            LabelError,
            "is ambiguous: pass an explicit LabelSpace",
        ),
        ({}, {"y": np.array([[0, -1]] * 40)}, LabelError, "label 'label_1', row 0: -1 is ambiguous"),
        ({}, {"y": np.zeros((40, 2, 2))}, LabelError, r"expected \[N\] or \[N, k\]"),
        ({"minutes": 0}, {}, ValueError, "minutes is 0: expected a positive number"),
        ({"space": "two"}, {}, TypeError, "space is 'two': expected a LabelSpace"),
        ({"plan": [1]}, {}, TypeError, r"plan is \[1\]: expected a dictionary"),
        ({"plan": "/nowhere.yaml"}, {}, DataError, "the plan /nowhere.yaml cannot be read"),
        ({"plan": {"train.stepz": 1}}, {}, DataError, "'train.stepz' is not a field of a plan; there are train.steps"),
        ({"plan": {"train.steps": "many"}}, {}, DataError, "a value does not fit its field"),
        ({"random_state": -1}, {}, ValueError, "Seed must be between 0 and"),
    ],
)
def test_what_fit_refuses_and_how(
    features: tuple[Array, Array], parameters: dict[str, Any], change: dict[str, Any], error: Any, sentence: str
) -> None:
    x, y = features
    with pytest.raises(error, match=sentence):
        tiny(**parameters).fit(x, **{"y": y, **change})


def test_cells_of_a_table_become_what_policies_say(features: tuple[Array, Array], tmp_path: Path) -> None:
    x, _ = features
    nan, space = np.nan, LabelSpace.multilabel(2)
    y, certain = (
        np.tile(rows, (10, 1))
        for rows in ([[1, -1], [-1, 0], [0, 1], [1, nan]], [[1, nan], [nan, 0], [0, 1], [1, nan]])
    )
    for given, uncertain, blank, same in (
        (certain, None, "negative", [[1, 0], [0, 0], [0, 1], [1, 0]]),
        (y, "positive,label_1=negative", None, [[1, 0], [1, 0], [0, 1], [1, nan]]),
        (y, "latent", "negative", [[1, nan], [nan, 0], [0, 1], [1, 0]]),
        (y, "soft=0.25", None, [[1, 0.25], [0.25, 0], [0, 1], [1, nan]]),
    ):
        made = tiny(uncertain=uncertain, blank=blank).fit(x, given)
        plainly = tiny(space=space).fit(x, np.tile(same, (10, 1)))
        np.testing.assert_array_equal(made.predict_proba(x), plainly.predict_proba(x))
    model = tiny(uncertain="ignore", blank="negative").fit(x, y)
    assert any("−1 (uncertain): taken as ignored" in note for note in model.notes_)
    model.save(tmp_path / "model")
    loaded = TautClassifier.load(tmp_path / "model")
    assert (loaded.uncertain, loaded.blank) == ("ignore", "negative")
    said = np.where(y == -1, nan, np.nan_to_num(y))  # blank is no, uncertain nothing
    right = (model.predict(x) == said)[~np.isnan(said)]
    assert loaded.score(x, y) == model.score(x, y) == pytest.approx(right.mean())
    # Blank cells are scored as what they are taken for, so that a table of positives has noes to be wrong about.
    positives, guess = np.where(np.eye(2)[np.arange(40) % 2] == 1, 1.0, nan), model.predict(x)
    assert model.score(x, positives) == pytest.approx((guess == np.nan_to_num(positives)).mean())
    assert tiny().fit(x, certain).score(x, np.ones_like(certain)) == pytest.approx(
        tiny().fit(x, certain).predict(x).mean()
    )
    with pytest.raises(DataError, match="uncertain is for a table of several labels: of one label -1 is no"):
        tiny(uncertain="positive").fit(x, np.arange(40) % 3 - 1)
    # -1 may be a class of another label.
    mix = LabelSpace((Label("side", (-1, 0, 1)), Label("sick", (0, 1))))
    model = tiny(uncertain="positive", space=mix).fit(x, np.tile([[-1, 1], [0, -1], [1, 0], [-1, 0]], (10, 1)))
    assert any("10 cells are −1 (uncertain): taken as positive" in note for note in model.notes_)


def test_a_fit_that_fails_leaves_the_former_model(features: tuple[Array, Array], table: Array) -> None:
    x, y = features
    model = tiny().fit(x, y)
    expected = model.predict_proba(x)
    with pytest.raises(LabelError):
        model.fit(x, np.where(np.isnan(table), -1, table))
    np.testing.assert_array_equal(model.predict_proba(x), expected)


# --- score --------------------------------------------------------------------------------------------------


def test_score_is_scikit_learns_accuracy_over_the_annotated(features: tuple[Array, Array]) -> None:
    x, y = features
    model = tiny().fit(x, y)
    weight = np.linspace(0, 1, 40)
    assert model.score(x, y) == accuracy_score(y, model.predict(x))
    assert model.score(x, y, weight) == pytest.approx(accuracy_score(y, model.predict(x), sample_weight=weight))
    holes = np.where(np.arange(40) % 3 == 0, -1, y)
    known = holes >= 0
    assert model.score(x, holes) == accuracy_score(y[known], model.predict(x)[known])
    unseen = np.where(np.arange(40) == 0, 7, y)
    assert model.score(x, unseen) == accuracy_score(unseen, model.predict(x))
    with pytest.raises(ValueError, match="no annotated cell"):
        model.score(x, np.full(40, -1))


def test_score_of_several_labels_counts_annotated_cells(features: tuple[Array, Array], table: Array) -> None:
    x, _ = features
    model = tiny().fit(x, table)
    known = ~np.isnan(table)
    assert model.score(x, table) == pytest.approx((model.predict(x) == table)[known].mean())
    weight = np.linspace(0, 1, 40)
    expected = np.average((model.predict(x) == table)[known], weights=np.stack([weight, weight], axis=1)[known])
    assert model.score(x, table, weight) == pytest.approx(expected)
    with pytest.raises(LabelError, match=r"expected \[N, 2\] for 2 labels"):
        model.score(x, table[:, 0])


# --- the generative side ------------------------------------------------------------------------------------


def test_it_learns_digits(trained: TautClassifier, digits: tuple[Array, Array]) -> None:
    images, y = digits
    assert trained.score(images[600:], y[600:]) > 0.8
    assert trained.pixel_max_ == 16


def test_transform_gives_the_means_of_z(trained: TautClassifier, digits: tuple[Array, Array]) -> None:
    images, _ = digits
    z = trained.transform(images[:20])
    assert z.shape == (20, 16)
    assert z.std(axis=0).max() > 0.1
    x = trained.model_.prepare(torch.from_numpy((images[:20, None] / 16).astype(np.float32)))
    with torch.no_grad():
        np.testing.assert_allclose(z, trained.model_.encode(x).mean.numpy(), atol=1e-5)
    names = trained.get_feature_names_out()
    assert len(names) == 16
    assert names[0] == "tautclassifier0"


def test_reconstructions_are_nearer_than_the_mean_image(trained: TautClassifier, digits: tuple[Array, Array]) -> None:
    pixels = digits[0][600:, None] / 16
    drawn = trained.reconstruct(digits[0][600:])
    assert drawn.shape == pixels.shape
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    mean = digits[0][:600, None].mean(axis=0) / 16
    assert ((drawn - pixels) ** 2).mean() < 0.9 * ((mean - pixels) ** 2).mean()


def test_samples_follow_the_seed_and_the_labels(trained: TautClassifier, digits: tuple[Array, Array]) -> None:
    images, y = digits
    zeros = trained.sample([0] * 200, random_state=1)
    assert zeros.shape == (200, 1, 8, 8)
    assert zeros.min() >= 0
    assert zeros.max() <= 1
    np.testing.assert_array_equal(zeros, trained.sample([0] * 200, random_state=1))
    assert not np.array_equal(zeros, trained.sample([0] * 200, random_state=2))
    # The mean of drawn zeros is nearer to that of real zeros than to that of real ones, and so for ones.
    ones = trained.sample([1] * 200, random_state=1)
    real = [images[y == c].mean(axis=0) / 16 for c in (0, 1)]
    for c, drawn in enumerate((zeros, ones)):
        distance = [np.abs(drawn.mean(axis=0)[0] - one).mean() for one in real]
        assert distance[c] < distance[1 - c]
    with pytest.raises(LabelError, match="row 1: 11 is not one of its classes"):
        trained.sample([0, 11])


def test_unannotated_labels_of_samples_come_from_the_prior(features: tuple[Array, Array]) -> None:
    x, _ = features
    model = tiny().fit(x, np.stack([np.arange(40) % 10 == 0, np.arange(40) % 2], axis=1).astype(float))
    drawn: list[torch.Tensor] = []
    decode = model.model_.decode
    model.model_.decode = lambda z, c: drawn.append(c) or decode(z, c)
    model.sample(np.column_stack([np.full(4000, np.nan), np.ones(4000)]), random_state=0)
    first, second = drawn[0][:, 1], drawn[0][:, 3]
    assert (second == 1).all()
    prior = float(model.model_.log_prior[1].exp())
    assert prior == pytest.approx(5 / 42, abs=1e-5)
    assert float(first.mean()) == pytest.approx(prior, abs=4 * np.sqrt(prior * (1 - prior) / 4000))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objective.name": "supervised"}, "'supervised' never trained"),
        ({"objective.name": "fixmatch"}, "'fixmatch' never trained"),
        ({"objective.reconstruction": 0}, "'tighter-elbo' with objective.reconstruction 0 never trained"),
    ],
)
def test_nothing_comes_from_a_decoder_that_was_never_trained(
    changes: dict[str, Any], named: str, tmp_path: Path, features: tuple[Array, Array]
) -> None:
    x, y = features
    tiny(plan={**TINY, **changes}).fit(x, y).save(tmp_path)
    model = TautClassifier.load(tmp_path)
    assert model.predict_proba(x).shape == (40, 2)
    for act, values in ((model.transform, x), (model.reconstruct, x), (model.sample, [0, 1])):
        with pytest.raises(DataError, match=named):
            act(values)


# --- seeds, parameters, copies ------------------------------------------------------------------------------


def test_the_callers_random_states_are_untouched(features: tuple[Array, Array]) -> None:
    x, y = features
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    model = tiny(minutes=0.001).fit(x, y)
    model.predict_proba(x)
    model.sample([0, 1], random_state=0)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert after[0] == before[0]
    np.testing.assert_equal(after[1], before[1])
    assert torch.equal(after[2], before[2])


def test_the_same_seed_gives_the_same_model_in_all_its_forms(features: tuple[Array, Array]) -> None:
    x, y = features
    np.random.seed(3)  # noqa: NPY002 - scikit-learn's meaning of random_state=None
    first = tiny(random_state=None).fit(x, y).predict_proba(x)
    second = tiny(random_state=np.random.RandomState(3)).fit(x, y).predict_proba(x)
    np.testing.assert_array_equal(first, second)
    fifth = tiny(random_state=5).fit(x, y).predict_proba(x)
    np.testing.assert_array_equal(tiny(random_state=np.int64(5)).fit(x, y).predict_proba(x), fifth)
    assert not np.array_equal(first, fifth)


def test_parameters_survive_clone_and_pickle(features: tuple[Array, Array]) -> None:
    x, _ = features
    model = TautClassifier(plan=TINY, unlabeled="?", space=MIX, random_state=4, minutes=None, verbose=False)
    assert clone(model).get_params() == model.get_params()
    assert TautClassifier(**model.get_params()).get_params() == model.get_params()
    assert model.set_params(minutes=2.5).minutes == 2.5
    fitted = tiny().fit(x, np.arange(40) % 3)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(x), fitted.predict_proba(x))


def test_a_plan_file_is_a_plan(tmp_path: Path, features: tuple[Array, Array]) -> None:
    x, y = features
    first = tiny().fit(x, y)
    first.plan_.save(tmp_path / "plan.yaml")
    second = tiny(plan=tmp_path / "plan.yaml").fit(x, y)
    np.testing.assert_array_equal(first.predict_proba(x), second.predict_proba(x))


def test_an_objective_is_named_by_itself_or_by_the_plan(tmp_path: Path, features: tuple[Array, Array]) -> None:
    x, _ = features
    known = np.where(np.arange(40) < 20, np.arange(40) % 2, -1)
    plain, named = tiny().fit(x, known), tiny(objective="fixmatch").fit(x, known)
    assert (plain.plan_.objective.name, named.plan_.objective.name) == ("tighter-elbo", "fixmatch")
    assert named.plan_.objective.threshold == 0.95
    expected = named.predict_proba(x)
    assert not np.array_equal(plain.predict_proba(x), expected)
    # A plan that names the method has the settings of that method too, in either form; the parameter goes before it.
    named.plan_.save(tmp_path / "plan.yaml")
    for plan in ({**TINY, "objective.name": "fixmatch"}, {**TINY, "objective": {"name": "fixmatch"}}):
        np.testing.assert_array_equal(tiny(plan=plan).fit(x, known).predict_proba(x), expected)
    np.testing.assert_array_equal(tiny(plan=tmp_path / "plan.yaml").fit(x, known).predict_proba(x), expected)
    other = tiny(plan={**TINY, "objective.name": "vat"}, objective="fixmatch").fit(x, known)
    np.testing.assert_array_equal(other.predict_proba(x), expected)
    with pytest.raises(ValueError, match="'fixmach' is not one of tighter-elbo, supervised"):
        tiny(objective="fixmach").fit(x, known)
    # What is loaded repeats the training by the same method.
    named.save(tmp_path / "model")
    loaded = TautClassifier.load(tmp_path / "model")
    assert loaded.plan_ == named.plan_
    np.testing.assert_array_equal(clone(loaded).fit(x, known).predict_proba(x), expected)


@pytest.mark.parametrize("objective", ["m2", "m1m2"])
def test_models_of_other_objectives_have_the_same_face(
    objective: str, tmp_path: Path, features: tuple[Array, Array]
) -> None:
    x, _ = features
    known = np.where(np.arange(40) < 20, np.arange(40) % 2, -1)
    model = tiny(objective=objective).fit(x, known)
    model.save(tmp_path)
    loaded = TautClassifier.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))
    assert loaded.transform(x).shape == (40, model.plan_.model.z_dim)
    assert loaded.reconstruct(x).shape == x.shape
    assert loaded.sample([0, 1], random_state=0).shape == (2, 4)


def test_a_budget_and_verbosity_say_what_they_do(
    features: tuple[Array, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = features
    model = tiny(minutes=0.002, verbose=True).fit(x, y)
    assert "steps" in model.notes_[0]
    assert model.notes_[0] in capsys.readouterr().out
    tiny().fit(x, y)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


# --- save and load ------------------------------------------------------------------------------------------


def test_a_loaded_model_is_the_saved_one(tmp_path: Path, trained: TautClassifier, digits: tuple[Array, Array]) -> None:
    images, y = digits
    trained.save(tmp_path / "model")
    loaded = TautClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(images), trained.predict_proba(images))
    np.testing.assert_array_equal(loaded.transform(images), trained.transform(images))
    np.testing.assert_array_equal(loaded.sample([3, 4], random_state=0), trained.sample([3, 4], random_state=0))
    assert loaded.score(images, y) == trained.score(images, y)
    assert loaded.plan_ == trained.plan_
    assert loaded.classes_.tolist() == trained.classes_.tolist()


def test_a_loaded_estimator_repeats_its_training(tmp_path: Path, features: tuple[Array, Array]) -> None:
    x, y = features
    frame = pd.DataFrame(x, columns=list("abcd"))
    model = tiny(random_state=7, unlabeled=None).fit(frame, 2 * y - 1)
    model.save(tmp_path)
    loaded = TautClassifier.load(tmp_path)
    assert loaded.unlabeled is None
    assert loaded.random_state == 7
    assert list(loaded.feature_names_in_) == list("abcd")
    expected = model.predict_proba(frame)
    np.testing.assert_array_equal(loaded.predict_proba(frame), expected)
    np.testing.assert_array_equal(clone(loaded).fit(frame, 2 * y - 1).predict_proba(frame), expected)


def test_evaluate_keeps_a_class_of_minus_one(
    tmp_path: Path, features: tuple[Array, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = features
    tiny(unlabeled=None).fit(x, 2 * y - 1).save(tmp_path / "saved")
    np.savez(tmp_path / "test.npz", x=x, y=2 * y - 1)
    cli.main(["evaluate", str(tmp_path / "saved"), "--data", str(tmp_path / "test.npz"), "--json"])
    row = json.loads(capsys.readouterr().out)["per_label"]["label"]
    assert (row["annotated"], row["positives"], row["class"]) == (len(x), int(y.sum()), "1")


def test_what_means_unannotated_is_loaded_with_a_run(tmp_path: Path, features: tuple[Array, Array]) -> None:
    x, y = features
    np.savez(tmp_path / "data.npz", x=x, y=np.where(np.arange(40) < 30, y, 9))
    flags = ["--unlabeled", "9", *FLAGS, "--quiet"]
    cli.main(["train", str(tmp_path / "data.npz"), *flags, "--out", str(tmp_path / "run")])
    cli.main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "shipped")])
    for folder in ("run", "shipped"):
        loaded = TautClassifier.load(tmp_path / folder)
        assert loaded.unlabeled == 9
        assert loaded.score(x, np.where(np.arange(40) < 30, y, 9)) == loaded.score(x[:30], y[:30])


def test_spectra_with_a_side_of_one_are_vectors(features: tuple[Array, Array]) -> None:
    x, y = features
    model = tiny().fit(x, y)
    for shaped in (x[:, :, None], x[:, None], x[:, None, :, None]):
        again = tiny().fit(shaped, y)
        assert again.plan_.model.encoder == "mlp"
        np.testing.assert_array_equal(again.predict_proba(shaped), model.predict_proba(x))


def test_a_run_is_never_replaced_and_nothing_is_left_of_a_former_model(tmp_path: Path, trained: TautClassifier) -> None:
    run, saved = tmp_path / "run", tmp_path / "model"
    cli.train("digits", labels_per_class=5, out=run, quiet=True, changes=dict(TINY))
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(DataError, match="is a run, whose model would be replaced: name another folder"):
        trained.save(run)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    saved.mkdir()
    for name in ("frozen.json", "frozen.safetensors", "program.pt2", "program.json"):
        (saved / name).write_text("of another model")
    for _ in range(2):
        trained.save(saved)
        assert {path.name for path in saved.iterdir()} == {"model.json", "model.safetensors"}


def test_a_run_folder_is_loaded(tmp_path: Path, digits: tuple[Array, Array]) -> None:
    images, y = digits
    cli.train("digits", labels_per_class=5, out=tmp_path / "run", quiet=True, changes=dict(TINY))
    model = TautClassifier.load(tmp_path / "run")
    pixels = np.round(images * (255 / 16)).astype(np.uint8)
    q = predict_probabilities(Run(tmp_path / "run").load_model(), pixels[:, None])
    np.testing.assert_array_equal(model.predict_proba(pixels), q)
    assert model.plan_.train.steps == TINY["train.steps"]
    assert model.score(pixels, y) == (q.argmax(axis=1) == y).mean()


def test_a_loaded_run_keeps_its_prevalences(tmp_path: Path) -> None:
    cli.train("digits", labels_per_class=5, prevalence="3=0.4", out=tmp_path / "run", quiet=True, changes=dict(TINY))
    loaded = TautClassifier.load(tmp_path / "run")
    assert loaded.prevalence is not None
    assert list(loaded.prevalence.values()) == [0.4]


def test_a_stated_prevalence_reaches_probabilities(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Annotations are filled in where they are positive: half of them are, of a population of which a tenth is."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = rng.normal(size=(400, 4)).astype(np.float32) + y[:, None]
    population = rng.random(4000) < 0.1
    new = rng.normal(size=(4000, 4)).astype(np.float32) + population[:, None]
    plan = {"train.steps": 100}
    means = [
        TautClassifier(prevalence=stated, space=LabelSpace.multilabel(["sick"]), plan=plan, random_state=0)
        .fit(x, y[:, None].astype(float))
        .predict_proba(new)[:, 1]
        .mean()
        for stated in ({"sick": 0.1}, None)
    ]
    assert means[0] == pytest.approx(population.mean(), abs=0.03)
    assert means[1] > 2 * means[0]
    np.savez(tmp_path / "pack.npz", x=x, y=y[:, None].astype(float), label_names=["sick"])
    flags = {"prevalence": "sick=0.1", "quiet": True, "changes": {"train.steps": 100}}
    cli.train(str(tmp_path / "pack.npz"), out=tmp_path / "run", **flags)
    assert "probabilities of sick are for the stated frequencies" in capsys.readouterr().out
    cli.evaluate(tmp_path / "run", resamples=0)
    assert "probabilities and thresholds of sick are for the frequencies that" in capsys.readouterr().err


def test_the_commands_read_what_save_wrote(
    tmp_path: Path, trained: TautClassifier, digits: tuple[Array, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    images, y = digits
    saved, out = tmp_path / "model", tmp_path / "p.csv"
    trained.save(saved)
    np.savez(tmp_path / "new.npz", x=images[:20], y=y[:20])
    cli.main(["predict", str(saved), str(tmp_path / "new.npz"), "--out", str(out)])
    q = pd.read_csv(out)[[f"label={c}:calibrated" for c in range(10)]]
    np.testing.assert_allclose(q, trained.predict_proba(images[:20]), atol=1e-5)
    flags = ["--row", "3", "--label", "label=3", "--out", str(tmp_path / "why.png")]
    cli.main(["explain", str(saved), str(tmp_path / "new.npz"), *flags])
    assert "q(label=3|x) = " in capsys.readouterr().out
    cli.main(["evaluate", str(saved), "--data", str(tmp_path / "new.npz"), "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["error"] == pytest.approx(100 * (1 - trained.score(images[:20], y[:20])))
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(saved)])
    said = capsys.readouterr().err
    assert said == f"taut: {saved} is a model without its data: name what to evaluate on with --data\n"


def test_what_cannot_be_loaded_or_is_not_fitted(tmp_path: Path, features: tuple[Array, Array]) -> None:
    with pytest.raises(DataError, match="holds no trained model"):
        TautClassifier.load(tmp_path / "nowhere")
    x, y = features
    unfitted = TautClassifier()
    for act in (unfitted.predict, unfitted.predict_proba, unfitted.transform, unfitted.reconstruct, unfitted.sample):
        with pytest.raises(NotFittedError):
            act(x)
    with pytest.raises(NotFittedError):
        unfitted.score(x, y)
    with pytest.raises(NotFittedError):
        unfitted.save(tmp_path)


# --- among scikit-learn's tools -----------------------------------------------------------------------------


def test_in_a_pipeline_and_in_a_search() -> None:
    x, y = load_iris(return_X_y=True)
    known = np.where(np.arange(150) % 3 == 0, y, -1)
    pipeline = make_pipeline(StandardScaler(), tiny(plan={**SMALL, "train.steps": 150})).fit(x, known)
    assert pipeline.score(x, y) > 0.85
    assert pipeline[:-1].transform(x).shape == (150, 4)
    scores = cross_val_score(tiny(), x, known, cv=KFold(3, shuffle=True, random_state=0))
    assert scores.shape == (3,)
    assert ((scores >= 0) & (scores <= 1)).all()
    grid = {"plan": [TINY, SMALL], "minutes": [None, 0.001]}
    search = GridSearchCV(tiny(), grid, cv=2, error_score="raise").fit(x, y)
    assert search.best_params_["plan"] == SMALL
    assert search.predict_proba(x).shape == (150, 3)


def test_z_may_come_as_a_data_frame(features: tuple[Array, Array]) -> None:
    x, y = features
    model = tiny().set_output(transform="pandas")
    frame = model.fit_transform(pd.DataFrame(x, index=np.arange(40) + 100), y)
    assert list(frame.columns) == ["tautclassifier0", "tautclassifier1"]
    assert frame.index[0] == 100


# --- what is kept -------------------------------------------------------------------------------------------


def test_a_failed_fit_leaves_the_scale_of_the_former_model() -> None:
    x, y = images_of((6, 6), float) / 255 * 4000, np.arange(24) % 2
    model = tiny(plan={**TINY, "train.steps": 1}).fit(x, y)
    expected = model.predict_proba(x)
    with pytest.raises(LabelError):
        model.fit(x * 15, np.full(24, 0.5))
    np.testing.assert_array_equal(model.predict_proba(x), expected)
    fresh = tiny()
    with pytest.raises(LabelError):
        fresh.fit(x, np.full(24, 0.5))
    assert not hasattr(fresh, "n_features_in_")


def test_text_with_holes_that_numpy_made_text_of() -> None:
    x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    names = np.array(["cat", "dog"])[np.arange(24) % 2]
    names[3] = "nan"
    model = tiny(plan={**TINY, "train.steps": 1}).fit(x, names, groups=np.where(np.arange(24) < 3, "nan", "p"))
    assert model.classes_.tolist() == ["cat", "dog"]
    # A class may be called so where it is said.
    listed = tiny(plan={**TINY, "train.steps": 1}).fit(
        x, ["None" if name == "nan" else name for name in names.tolist()]
    )
    assert listed.classes_.tolist() == ["None", "cat", "dog"]
    for hole, kind in (("", np.array), ("None", np.array), ("", list), ("", pd.Series), ("nan", pd.Series)):
        texts = [hole if i == 3 else name for i, name in enumerate(names.tolist())]
        assert tiny(plan={**TINY, "train.steps": 1}).fit(x, kind(texts)).classes_.tolist() == ["cat", "dog"]
    with pytest.raises(LabelError, match="y is text with '-1' in it"):
        tiny().fit(x, pd.Series(["-1", *names[1:]]))
    mixed: list[Any] = [-1, "", *names[4:].tolist(), "cat", "dog"]
    assert tiny(plan={**TINY, "train.steps": 1}).fit(x, mixed).classes_.tolist() == ["cat", "dog"]


def test_a_score_of_numbers_against_classes_of_text_is_refused() -> None:
    x, y = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32), np.arange(24) % 2
    model = tiny(plan={**TINY, "train.steps": 1}).fit(x, y.astype(str))
    with pytest.raises(LabelError, match="the classes are text, such as '0', but y is not"):
        model.score(x, y)
    with pytest.raises(LabelError, match="the classes are numbers, such as 0, but y is text"):
        tiny(plan={**TINY, "train.steps": 1}).fit(x, y).score(x, y.astype(str))


def test_images_of_more_channels_than_colours_have() -> None:
    rng, y = np.random.default_rng(0), np.arange(24) % 2
    for shape in ((8, 8, 5), (2, 8, 8), (8, 8, 4)):
        x = rng.integers(0, 256, (24, *shape), dtype=np.uint8)
        model = tiny(plan={**TINY, "train.steps": 1}).fit(x, y)
        assert model.shape_ == (min(shape), 8, 8)
        turned = x.transpose(0, 2, 3, 1) if shape[0] == 2 else x.transpose(0, 3, 1, 2)
        same = tiny(plan={**TINY, "train.steps": 1}).fit(turned, y)
        np.testing.assert_array_equal(model.predict_proba(x), same.predict_proba(turned))
    # What is alpha was settled by fit, and not by the images that come later.
    dark = x.copy()
    dark[..., 3] = 0
    assert model.predict(dark[:1]).shape == (1,)
    alpha = np.concatenate([x[..., :3], np.full((24, 8, 8, 1), 255, np.uint8)], axis=3)
    opaque = tiny(plan={**TINY, "train.steps": 1}).fit(alpha, y)
    assert opaque.shape_ == (3, 8, 8)
    np.testing.assert_array_equal(opaque.predict_proba(x), opaque.predict_proba(x[..., :3]))


def test_what_an_array_of_text_takes_for_a_hole_is_told(features: tuple[Array, Array]) -> None:
    x, _ = features
    y = np.array(["None", "Mild", "Severe", "Mild"] * 10)
    model = tiny().fit(x, y)
    assert list(model.classes_) == ["Mild", "Severe"]
    assert (
        "10 texts of y say 'None', which numpy makes of a hole: not annotated (a list has it as a class)."
        in model.notes_
    )
    model = tiny().fit(x, y.tolist())
    assert list(model.classes_) == ["Mild", "None", "Severe"]
    assert not any("numpy" in note for note in model.notes_)


def test_groups_of_numbers_and_text(features: tuple[Array, Array]) -> None:
    x, y = features
    mixed = np.array([101, "A12"] * 20, dtype=object)
    alike = tiny().fit(x, y, groups=mixed.astype(str))
    np.testing.assert_array_equal(tiny().fit(x, y, groups=mixed).predict_proba(x), alike.predict_proba(x))


def test_a_prevalence_of_numpy_is_saved_and_a_save_that_fails_loses_nothing(tmp_path: Path, table: Array) -> None:
    x = images_of((8, 8), n=40)
    model = tiny(prevalence={"label_0": np.float32(0.25)}).fit(x, table)
    model.save(tmp_path / "model")
    assert TautClassifier.load(tmp_path / "model").prevalence == {"label_0": 0.25}
    kept = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    other = tiny(unlabeled=complex(1)).fit(x, table)
    with pytest.raises(TypeError):
        other.save(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == kept
