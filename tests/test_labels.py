from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conftest import Array
from taut.labels import Annotation, Label, LabelError, LabelSpace, Scalar

NAN = math.nan
MIX = LabelSpace((Label("view", ("a", "b", "c", "d", "e")), Label("sick", (0, 1))))


def same(a: Annotation, b: Annotation) -> None:
    np.testing.assert_array_equal(a.observed, b.observed)
    np.testing.assert_array_equal(a.targets, b.targets)


def check(space: LabelSpace, annotation: Annotation) -> None:
    """What every annotation promises: shapes, NaN exactly where hidden, probabilities where observed."""
    assert annotation.targets.dtype == np.float32
    assert annotation.observed.dtype == bool
    assert annotation.targets.shape == (len(annotation), space.width)
    assert annotation.observed.shape == (len(annotation), len(space))
    np.testing.assert_array_equal(np.isnan(annotation.targets), np.repeat(~annotation.observed, space.sizes, axis=1))
    for j, block in enumerate(space.blocks):
        seen = annotation.targets[annotation.observed[:, j], block]
        assert (seen >= 0).all()
        np.testing.assert_allclose(seen.sum(axis=1), 1, atol=2e-4)


# --- shape --------------------------------------------------------------------------------------------------


def test_shape_of_a_mixed_space() -> None:
    assert (len(MIX), MIX.names, MIX.sizes, MIX.width) == (2, ("view", "sick"), (5, 2), 7)
    assert MIX.blocks == (slice(0, 5), slice(5, 7))
    assert [label.name for label in MIX] == ["view", "sick"]
    assert not MIX.binary
    assert LabelSpace.multilabel(["x", "y"]).binary
    assert LabelSpace.multilabel(3).names == ("label_0", "label_1", "label_2")
    assert LabelSpace.multiclass(3).labels == (Label("label", (0, 1, 2)),)
    assert LabelSpace.multiclass(["cat", "dog"], name="pet").labels == (Label("pet", ("cat", "dog")),)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ((), "needs at least one label"),
        ((Label("a", (0, 1)), Label("a", (0, 1))), r"names are repeated: \['a'\]"),
        ((Label("a", (0,)),), "label 'a' has 1 class"),
        ((Label("a", ()),), "needs at least two classes"),
        ((Label("a", (0, 1, 0)),), "label 'a' repeats a class"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(labels: tuple[Label, ...], sentence: str) -> None:
    with pytest.raises(LabelError, match=sentence):
        LabelSpace(labels)


@pytest.mark.parametrize(
    "space",
    [
        MIX,
        LabelSpace.multilabel(3),
        LabelSpace.multiclass(["ä", "ß"]),
        LabelSpace.multiclass([1.5, 2.5, True]),
    ],
)
def test_json_round_trip(space: LabelSpace) -> None:
    again = LabelSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert [[type(c) for c in label.classes] for label in again] == [
        [type(c) for c in label.classes] for label in space
    ]


def test_inferred_spaces_can_be_written_as_json() -> None:
    for y in (
        np.array([3, 5], dtype=np.int16),
        np.array([True, False]),
        np.array(["x", "y"]),
        np.array([1.0, 2.0]),
    ):
        space = LabelSpace.infer(y)
        assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    "space",
    [
        LabelSpace.multiclass(np.unique(np.array([3, 5, 3]))),
        LabelSpace.multiclass(np.int64(10)),
        LabelSpace((Label("sick", np.array([False, True])), Label("grade", np.array(["a", "b"])))),  # type: ignore[arg-type]
        LabelSpace.multilabel(np.int64(2)),
    ],
)
def test_classes_of_numpy_can_be_written_as_json(space: LabelSpace) -> None:
    assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


# --- inference ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "unlabeled", "classes"),
    [
        ([2, 0, 7, 0], -1, (0, 2, 7)),
        ([1, -1, 0], -1, (0, 1)),
        ([1, -1, 1], None, (-1, 1)),
        ([1, 9, 0], 9, (0, 1)),
        ([1.0, NAN, 2.0], -1, (1.0, 2.0)),
        ([[1], [2], [-1]], -1, (1, 2)),
        (["b", "a", "?"], "?", ("a", "b")),
        (["b", "a", "-1"], -1, ("-1", "a", "b")),
        (np.array(["b", None, "a", NAN], dtype=object), -1, ("a", "b")),
        (np.array([3, None, 4], dtype=object), -1, (3, 4)),
        ([True, False], -1, (False, True)),
        (np.array([0, 200], dtype=np.uint8), -1, (0, 200)),
    ],
)
def test_one_dimensional_arrays_are_one_label(y: Any, unlabeled: Scalar | None, classes: tuple[Scalar, ...]) -> None:
    space = LabelSpace.infer(y, unlabeled, names=["thing"])
    assert space.labels == (Label("thing", classes),)
    annotation = space.encode(y, unlabeled)
    check(space, annotation)
    assert annotation.observed.any()


@pytest.mark.parametrize(
    "y",
    [
        [[0, 1], [1, 0]],
        [[0, 1, 1], [1, 0, NAN]],
        [[True, False], [True, True]],
        [[NAN, NAN], [NAN, NAN]],
        [[1, 0, 0]],
        [[1, 0, 0], [1, 1, 0]],
    ],
)
def test_tables_of_zeros_and_ones_are_yes_no_labels(y: Any) -> None:
    space = LabelSpace.infer(y)
    assert space == LabelSpace.multilabel(len(y[0]))
    check(space, space.encode(y))
    named = [f"finding {j}" for j in range(len(y[0]))]
    assert LabelSpace.infer(y, names=named).names == tuple(named)


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        ([-1, -1], "no image is annotated: pass an explicit LabelSpace"),
        ([NAN, NAN], "no image is annotated"),
        ([None, None], "no image is annotated"),
        ([], "no image is annotated"),
        (
            [0.5, 1.0],
            r"continuous values \(such as 0.5\).*Unknown label type: continuous.*explicit LabelSpace",
        ),
        ([0.0, 1.0, math.inf], "continuous values"),
        (np.array([0.5, 1.5], dtype=object), "continuous values"),
        (np.array([1, "a"], dtype=object), "mix text and numbers"),
        ([4, 4, -1], "label 'label' has 1 class"),
        (5, r"shape \[\]: expected \[N\] or \[N, k\]"),
        (np.zeros((2, 3, 4)), r"shape \[2, 3, 4\]"),
        ([["a", "b"], ["b", "a"]], "dtype <U1 is ambiguous"),
        ([[0, None], [1, 1]], "dtype object is ambiguous"),
        (
            [[0, 1], [0.25, 1]],
            "label 'label_0', row 1: 0.25 is ambiguous; soft labels need an explicit LabelSpace",
        ),
        (
            [[0, 1], [1, -1]],
            "label 'label_1', row 1: -1 is ambiguous; say what it means: NaN for an unannotated",
        ),
        ([[0, 2], [1, 1]], "label 'label_1', row 0: 2 is ambiguous"),
        ([[1, 0, 0], [0, 0, 1]], "exactly one 1, which is ambiguous.*multiclass.*multilabel"),
        (np.zeros((3, 0)), "at least one label"),
    ],
)
def test_what_fits_both_readings_or_neither_is_refused(y: Any, sentence: str) -> None:
    with pytest.raises(LabelError, match=sentence):
        LabelSpace.infer(y)


def test_one_hot_rows_among_unannotated_ones_are_refused_too() -> None:
    y = np.full((9, 3), np.nan)
    y[:6] = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    with pytest.raises(LabelError, match=r"every annotated row .* exactly one 1"):
        LabelSpace.infer(y)
    y[5] = np.nan  # five rows of three labels may be so by chance
    assert len(LabelSpace.infer(y)) == 3


def test_names_must_fit_the_columns() -> None:
    with pytest.raises(LabelError, match="3 label names for 2 columns"):
        LabelSpace.infer([[0, 1]], names=["a", "b", "c"])


# --- encoding and back --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "y", "unlabeled"),
    [
        (LabelSpace.multiclass(4), np.array([3, 0, 2, 1]), -1),
        (LabelSpace.multiclass(4), np.array([3, -1, 2, -1]), -1),
        (LabelSpace.multiclass(2), np.array([1, -1, 0]), -1),
        (LabelSpace.multiclass([-1, 1]), np.array([-1, 1, 1]), None),
        (LabelSpace.multiclass([-1, 1]), np.array([-1, None, 1], dtype=object), None),
        (LabelSpace.multiclass([-1, 1]), np.array([-1, 0, 1]), 0),
        (LabelSpace.multiclass(["cat", "dog"]), np.array(["dog", "cat"]), -1),
        (LabelSpace.multiclass(["cat", "dog"]), np.array(["dog", "?"]), "?"),
        (LabelSpace.multiclass(["cat", "dog"]), np.array(["dog", None], dtype=object), -1),
        (LabelSpace.multilabel(3), np.array([[0, 1, NAN], [NAN, NAN, NAN], [1, 1, 0]]), -1),
        (LabelSpace.multilabel(2), np.array([[0.25, 1], [NAN, 0.5]]), -1),
        (MIX, np.array([["b", 1], [None, 0], ["e", None]], dtype=object), -1),
        (MIX, np.array([[0.5, 0.5, 0, 0, 0, 1, 0], [NAN] * 5 + [0.25, 0.75]]), -1),
        (LabelSpace.multiclass(3), np.array([[0.5, 0.25, 0.25], [NAN] * 3, [0, 0, 1]]), -1),
    ],
)
def test_round_trip(space: LabelSpace, y: Array, unlabeled: Scalar | None) -> None:
    annotation = space.encode(y, unlabeled)
    check(space, annotation)
    back = space.decode(annotation, unlabeled)
    assert back.shape == y.shape
    np.testing.assert_array_equal(back, y)
    same(space.encode(back, unlabeled), annotation)


def test_targets_of_known_annotations() -> None:
    annotation = LabelSpace.multiclass(["a", "b", "c"]).encode(["c", "a"])
    assert annotation.targets.tolist() == [[0, 0, 1], [1, 0, 0]]
    annotation = LabelSpace.multilabel(2).encode([[1, NAN], [0.25, 0]])
    np.testing.assert_array_equal(annotation.targets, [[0, 1, NAN, NAN], [0.75, 0.25, 1, 0]])
    assert annotation.observed.tolist() == [[True, False], [True, True]]
    annotation = MIX.encode(np.array([["c", 1]], dtype=object))
    assert annotation.targets.tolist() == [[0, 0, 1, 0, 0, 0, 1]]


def test_unannotated_values_decode_to_none_where_the_marker_would_be_a_class_or_another_type() -> None:
    words = LabelSpace.multiclass(["cat", "dog"])
    annotation = words.encode(np.array(["cat", None], dtype=object))
    assert words.decode(annotation).tolist() == ["cat", None]
    signs = LabelSpace.multiclass([-1, 1])
    annotation = signs.encode(np.array([1, None, -1], dtype=object), unlabeled=None)
    assert signs.decode(annotation).tolist() == [1, None, -1]


def test_a_column_of_one_label_may_stand_upright() -> None:
    for space in (LabelSpace.multiclass(2), LabelSpace.multiclass(3)):
        same(space.encode([[1], [0], [-1]]), space.encode([1, 0, -1]))
    same(
        LabelSpace.multilabel(1).encode([[0.25], [NAN]]),
        LabelSpace.multilabel(1).encode([[0.75, 0.25], [NAN, NAN]]),
    )


@pytest.mark.parametrize(
    ("space", "y", "sentence"),
    [
        (LabelSpace.multiclass(3), [0, 5], r"label 'label', row 1: 5 is not one of its classes \[0, 1, 2\]"),
        (LabelSpace.multiclass(["a", "b"]), ["a", "x"], "row 1: 'x' is not one of its classes"),
        (LabelSpace.multiclass(["a", "b"]), [0, 1], "row 0: 0 is not one of its classes"),
        (
            LabelSpace.multilabel(2),
            [[0, 1], [0, 2]],
            "label 'label_1', row 1: 2 is neither 0, 1, NaN nor a prob",
        ),
        (LabelSpace.multilabel(2), [[0, -1]], "label 'label_1', row 0: -1 is neither"),
        (LabelSpace.multilabel(2), [[0, math.inf]], "inf is neither"),
        (LabelSpace.multilabel(2), [0, 1], r"shape \[2\]: expected \[N, 2\]"),
        (LabelSpace.multilabel(2), [[0, 1, 0]], "3 columns: expected 2 .* or 4"),
        (MIX, [["a", "b"]], "label 'sick', row 0: 'b' is not one of its classes"),
        (LabelSpace.multiclass(3), [[0.5, 0.2, 0.2]], "row 0: .* are not probabilities of sum 1"),
        (LabelSpace.multiclass(3), [[1.5, -0.5, 0.0]], "not probabilities"),
        (LabelSpace.multiclass(3), [[0, 0, 1], [NAN, 0.5, 0.5]], "row 1: .* not probabilities"),
        (LabelSpace.multiclass(3), [[math.inf, 0, 0]], "not probabilities"),
    ],
)
def test_what_does_not_fit_is_named(space: LabelSpace, y: Any, sentence: str) -> None:
    with pytest.raises(LabelError, match=sentence):
        space.encode(y)


def test_annotations_are_sliced_by_row() -> None:
    annotation = LabelSpace.multiclass(3).encode([0, -1, 2])
    assert len(annotation[1:]) == 2
    same(annotation[[2, 0]], LabelSpace.multiclass(3).encode([2, 0]))


def test_predict_takes_the_most_probable_class() -> None:
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4, 0, 0.9, 0.1], [0.9, 0.1, 0, 0, 0, 0.2, 0.8]])
    assert MIX.predict(probabilities).tolist() == [["d", 0], ["a", 1]]
    assert LabelSpace.multiclass(["x", "y"]).predict(probabilities[:, 5:]).tolist() == ["x", "y"]
    yes = LabelSpace.multilabel(2).predict(np.array([[0.1, 0.9, 0.6, 0.4]]))
    assert yes.tolist() == [[1, 0]]
    assert yes.dtype.kind == "i"


# --- priors -------------------------------------------------------------------------------------------------


def test_the_empirical_prior_is_smoothed_class_frequencies() -> None:
    space = LabelSpace((Label("a", (0, 1, 2)), Label("b", (0, 1)), Label("c", (0, 1))))
    y = np.array([[0, 1, None], [0, None, None], [2, 1, None]], dtype=object)
    log_prior = space.prior(space.encode(y))
    assert log_prior.dtype == np.float32
    np.testing.assert_allclose(np.exp(log_prior), [3 / 6, 1 / 6, 2 / 6, 1 / 4, 3 / 4, 1 / 2, 1 / 2], rtol=1e-6)
    uniform = np.exp(space.prior(space.encode(y), kind="uniform"))
    np.testing.assert_allclose(uniform, [1 / 3] * 3 + [1 / 2] * 4, rtol=1e-6)
    with pytest.raises(ValueError, match="'other' is neither 'uniform' nor 'empirical'"):
        space.prior(space.encode(y), kind="other")


def test_soft_annotations_count_in_parts() -> None:
    space = LabelSpace.multilabel(1)
    log_prior = space.prior(space.encode([[0.25], [0.5], [NAN]]))
    np.testing.assert_allclose(np.exp(log_prior), [(1.25 + 1) / 4, (0.75 + 1) / 4], rtol=1e-6)


def test_a_label_that_is_never_annotated_is_named() -> None:
    space = LabelSpace.multilabel(["a", "b", "c"])
    with pytest.raises(LabelError, match="no image is annotated with 'b', 'c', while other labels are"):
        space.check_observed(space.encode([[1, NAN, NAN], [NAN, NAN, NAN]]))
    space.check_observed(space.encode([[1, NAN, 0], [NAN, 1, NAN]]))
    space.check_observed(space.encode([[NAN, NAN, NAN]]))


# --- tables that nobody thought of --------------------------------------------------------------------------

CELLS: dict[str, st.SearchStrategy[Any]] = {
    "integers": st.integers(-2, 3),
    "floats": st.sampled_from([0.0, 1.0, 2.0, -1.0, 0.5, NAN, math.inf]),
    "text": st.sampled_from(["a", "b", "", "-1"]),
    "objects": st.sampled_from(["a", 1, 0, None, NAN, 0.5, True, -1]),
    "holes": st.just(NAN),
    "constant": st.just(1.0),
    "yes-no": st.sampled_from([0.0, 1.0, NAN]),
}
DTYPES: dict[str, Any] = {"integers": np.int64, "text": np.dtype("U2"), "objects": object}


@st.composite
def tables(draw: st.DrawFn) -> Array:
    """A label table of any kind of cell: [N] or [N, k], all missing, all present, with constant columns."""
    kind = draw(st.sampled_from(sorted(CELLS)))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5))
    table = np.empty(shape, dtype=DTYPES.get(kind, np.float64))
    for index in np.ndindex(*shape):
        table[index] = draw(CELLS[kind])
    if table.ndim == 2 and table.size and draw(st.booleans()):
        table[:, 0] = table[0, 0]
    return table


def check_sentence(text: str, part: str = " ") -> None:
    assert len(text.split()) > 4
    assert part in text


@settings(max_examples=200)
@given(table=tables(), unlabeled=st.sampled_from([-1, None, "a", 0]))
def test_any_table_is_encoded_or_refused_with_a_sentence(table: Array, unlabeled: Scalar | None) -> None:
    try:
        space = LabelSpace.infer(table, unlabeled)
        annotation = space.encode(table, unlabeled)
    except LabelError as error:
        check_sentence(str(error))
        return
    check(space, annotation)
    same(space.encode(space.decode(annotation, unlabeled), unlabeled), annotation)
    prior = np.exp(space.prior(annotation).astype(np.float64))
    assert (prior > 0).all()
    for block in space.blocks:
        assert prior[block].sum() == pytest.approx(1, abs=1e-6)


@settings(max_examples=150)
@given(
    table=tables(),
    space=st.sampled_from([MIX, LabelSpace.multilabel(2), LabelSpace.multiclass(3), LabelSpace.multiclass(["a", "b"])]),
)
def test_any_table_fits_a_given_space_or_is_refused_with_a_sentence(table: Array, space: LabelSpace) -> None:
    try:
        annotation = space.encode(table)
    except LabelError as error:
        check_sentence(str(error))
        return
    check(space, annotation)
    same(space.encode(space.decode(annotation)), annotation)


@settings(max_examples=60)
@given(
    cells=hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 4)), elements=CELLS["yes-no"]),
    absent=st.sampled_from([None, 0.0, 1.0]),
)
def test_yes_no_tables_are_read_the_same_whatever_is_missing(cells: Array, absent: float | None) -> None:
    """Also where a class is absent from a column, which the classes of a yes/no label do not depend on."""
    if absent is not None:
        cells[cells == absent] = 1 - absent
    try:
        space = LabelSpace.infer(cells)
    except LabelError as error:
        check_sentence(str(error), "exactly one 1")
        space = LabelSpace.multilabel(cells.shape[1])
    annotation = space.encode(cells)
    np.testing.assert_array_equal(annotation.observed, ~np.isnan(cells))
    np.testing.assert_array_equal(annotation.targets[:, 1::2], cells)
    np.testing.assert_array_equal(space.decode(annotation), cells)
