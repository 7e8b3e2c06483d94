from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_files import images, table, yes
from taut.build import build_model
from taut.data import DataError, load_dataset
from taut.data.cells import (
    BLANK,
    UNCERTAIN,
    UNSAID,
    CellPolicy,
    annotate,
    annotation_notes,
    certain,
    parse_policy,
    parse_prevalence,
    settle,
    unscored,
    with_policy,
)
from taut.data.folder import load_folder
from taut.facts import fingerprint
from taut.labels import Label, LabelError, LabelSpace
from taut.plan import Plan
from taut.prevalence import stated_prior
from taut.rules import describe
from tiny import NAN, vectors

NAMES = ["A", "B b", "C"]
SPACE = LabelSpace.multilabel(NAMES)
MIXED = LabelSpace((Label("kind", ("cat", "dog", "cow")), Label("A", (0, 1))))


# --- what the flags say -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fates"),
    [
        ("latent", ["latent"] * 3),
        ("positive", ["positive"] * 3),
        ("soft=0.3", ["soft=0.3"] * 3),
        ("A=negative", ["negative", "latent", "latent"]),
        ("ignore, B b=positive", ["ignore", "positive", "ignore"]),
        ("C=soft=1e-2,negative,A=latent", ["latent", "negative", "soft=1e-2"]),
    ],
)
def test_a_policy_is_for_all_labels_or_by_label(text: str, fates: list[str]) -> None:
    assert parse_policy("--blank", text, SPACE) == fates


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is none of latent, positive, negative, ignore, soft=P"),
        ("maybe", "--blank 'maybe': 'maybe' is none of"),
        ("A=perhaps", "'A=perhaps' is none of"),
        ("soft=1.5", "soft=1.5 is not a probability between 0 and 1"),
        ("soft=..", "soft=.. is not a probability"),
        ("D=positive", "'D' is not one of the yes/no labels A, B b, C"),
        ("positive,negative", "says twice what becomes of 'all labels'"),
        ("A=positive,A=latent", "says twice what becomes of 'A'"),
    ],
)
def test_faults_of_a_policy_are_named(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_policy("--blank", text, SPACE)
    assert message in str(caught.value)


def test_a_policy_is_for_yes_no_labels() -> None:
    with pytest.raises(DataError, match="'kind' is not one of the yes/no labels A"):
        parse_policy("--uncertain", "kind=positive", MIXED)


def test_prevalences_by_flag_and_by_file(tmp_path: Path) -> None:
    assert parse_prevalence(None, SPACE) == {}
    assert parse_prevalence("A=0.1, B b=2e-2", SPACE) == {"A": 0.1, "B b": 0.02}
    path = tmp_path / "known.yaml"
    path.write_text("A: 0.1\nB b: 0.02\n")
    assert parse_prevalence(str(path), SPACE) == {"A": 0.1, "B b": 0.02}
    for text, message in (
        ("A", "'A' is not LABEL=P, nor is it a YAML file"),
        ("D=0.1", "'D' is not one of the yes/no labels"),
        ("A=0", "A=0 is not between 0 and 1"),
        ("A=many", "A=many is not between 0 and 1"),
        (str(tmp_path / "gone.yaml"), "gone.yaml cannot be read"),
    ):
        with pytest.raises(DataError) as caught:
            parse_prevalence(text, SPACE)
        assert message in str(caught.value)
    path.write_text("- A\n")
    with pytest.raises(DataError, match="is not a mapping"):
        parse_prevalence(str(path), SPACE)


# --- what becomes of cells ----------------------------------------------------------------------------------


def cell(code: int, uncertain: str, blank: str) -> tuple[float, bool, bool]:
    """Probability of yes (or NaN), observed, ignored: one cell at a time."""
    fate = {UNCERTAIN: uncertain, BLANK: blank}.get(code, "latent")
    if code in (0, 1):
        return float(code), True, False
    if fate == "ignore":
        return NAN, False, True
    if fate == "latent":
        return NAN, False, False
    p = {"positive": 1.0, "negative": 0.0}.get(fate)
    return (float(fate.split("=")[1]) if p is None else p), True, False


FATES = st.sampled_from(["latent", "positive", "negative", "ignore", "soft=0.25"])


@given(
    codes=st.lists(
        st.lists(st.sampled_from([0, 1, UNSAID, BLANK, UNCERTAIN]), min_size=3, max_size=3), min_size=1, max_size=6
    ),
    usual=st.tuples(FATES, FATES),
    own=st.tuples(FATES, FATES),
)
def test_every_cell_becomes_what_its_policy_says(
    codes: list[list[int]], usual: tuple[str, str], own: tuple[str, str]
) -> None:
    policy = CellPolicy(*(f"{general},B b={special}" for general, special in zip(usual, own, strict=True)))
    annotation = annotate(SPACE, settle(SPACE, np.array(codes), policy))
    ignored = np.zeros_like(annotation.observed) if annotation.ignored is None else annotation.ignored
    for i, row in enumerate(codes):
        for j, code in enumerate(row):
            p, observed, left_out = cell(code, *(own if j == 1 else usual))
            assert annotation.observed[i, j] == observed
            assert ignored[i, j] == left_out
            np.testing.assert_allclose(annotation.targets[i, 2 * j : 2 * j + 2], [1 - p, p])


def test_classes_beside_yes_no_labels() -> None:
    codes = np.array([[2, UNCERTAIN], [UNSAID, 1], [0, BLANK]])
    annotation = annotate(MIXED, settle(MIXED, codes, CellPolicy("positive", "negative")))
    np.testing.assert_equal(annotation.targets.tolist(), [[0, 0, 1, 0, 1], [NAN, NAN, NAN, 0, 1], [1, 0, 0, 1, 0]])


def test_a_table_by_every_policy_and_what_its_notes_say(tmp_path: Path) -> None:
    folder = images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    labels = table(tmp_path, "file,A,B\na.png,1,-1\nb.png,,0\nc.png,-1,1\n")
    plain = load_folder(folder, labels)
    np.testing.assert_equal(yes(plain), [[1, NAN], [NAN, 0], [NAN, 1], [NAN, NAN]])
    assert "2 cells are −1 (uncertain): taken as unannotated." in plain.notes
    assert plain.annotation.ignored is None
    data = load_folder(folder, labels, uncertain="positive,B=soft=0.25", blank="negative")
    # The image that no row names stays unannotated: its cells are not blank.
    np.testing.assert_equal(yes(data), [[1, 0.25], [0, 0], [1, 1], [NAN, NAN]])
    assert "2 cells are −1 (uncertain): taken as positive (1), soft=0.25 (1)." in data.notes
    assert "1 cell is blank: taken as negative." in data.notes
    data = load_folder(folder, labels, uncertain="ignore")
    assert data.annotation.ignored is not None
    assert data.annotation.ignored.tolist() == [[False, True], [False, False], [True, False], [False, False]]
    # Complete is an image with nothing left to estimate.
    assert data.annotation.complete.tolist() == [True, False, True, False]
    with pytest.raises(DataError, match="--uncertain 'D=positive': 'D' is not one of the yes/no labels A, B"):
        load_folder(folder, labels, uncertain="D=positive")
    with pytest.raises(DataError, match="--uncertain, --blank is for columns of a table"):
        load_folder(folder, space=SPACE, uncertain="latent", blank="latent")


def test_what_a_row_states_goes_before_anothers_doubt_under_any_policy(tmp_path: Path) -> None:
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    labels = table(tmp_path, "file,A,B\na.png,,-1\na.png,,0\nb.png,1,0\nb.png,0,0\nc.png,1,-1\nc.png,1,-1\n")
    for uncertain in ("latent", "positive", "negative", "ignore", "soft=0.3"):
        data = load_folder(folder, labels, uncertain=uncertain, blank="negative")
        assert data.ids == ["a.png", "b.png", "c.png"]
        np.testing.assert_array_equal(data.cells, [[BLANK, 0], [UNCERTAIN, 0], [1, UNCERTAIN]])
        np.testing.assert_equal(data.annotation.targets[0, 1::2], [0, 0])
    np.testing.assert_allclose(data.annotation.targets[1:, 1::2], [[0.3, 0], [1, 0.3]])


def test_parts_of_a_split_do_not_fill_in_each_others_cells(tmp_path: Path) -> None:
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file,A,B,part\na.png,1,,train\na.png,,1,test\nb.png,,0,train\nb.png,1,,train\n")
    data = load_folder(folder, labels, split_column="part")
    assert data.split is not None
    assert list(zip(data.ids, data.split.tolist(), strict=True)) == [
        ("a.png", "train"), ("a.png", "test"), ("b.png", "train")
    ]  # fmt: skip
    np.testing.assert_equal(data.annotation.targets[:, 1::2], [[1, NAN], [NAN, 1], [1, 0]])


def test_what_one_row_of_an_image_leaves_blank_another_fills_in(tmp_path: Path) -> None:
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    labels = table(tmp_path, "file,A,B\na.png,1,\na.png,,1\nb.png,,1\nb.png,,-1\nc.png,,\nc.png,-1,\n")
    data = load_folder(folder, labels, blank="negative")
    assert data.ids == ["a.png", "b.png", "c.png"]
    np.testing.assert_equal(data.annotation.targets[:, 1::2], [[1, 1], [0, 1], [NAN, 0]])
    np.testing.assert_array_equal(data.cells, [[1, 1], [BLANK, 1], [UNCERTAIN, BLANK]])


def test_unannotated_cells_of_arrays_are_blank_cells(tmp_path: Path) -> None:
    path = tmp_path / "pack.npz"
    y = np.array([[1, NAN], [NAN, 0], [NAN, NAN]])
    np.savez(path, x=np.arange(48, dtype=np.uint8).reshape(3, 4, 4), y=y, label_names=["A", "B"])
    assert load_dataset(str(path)).cells is None
    # Nothing was said of the last image.
    data = load_dataset(str(path), blank="negative,B=ignore")
    np.testing.assert_equal(yes(data), [[1, NAN], [0, 0], [NAN, NAN]])
    assert data.annotation.ignored is not None
    assert data.annotation.ignored.tolist() == [[False, True], [False, False], [False, False]]


def test_minus_one_among_the_cells_of_arrays_is_uncertain(tmp_path: Path) -> None:
    path = tmp_path / "pack.npz"
    x = np.arange(80, dtype=np.uint8).reshape(5, 4, 4)
    y = np.array([[1, -1], [-1, 0], [-1, -1], [0, 1], [1, 1]], dtype=np.int8)  # of the third image nothing is said
    np.savez(path, x=x, y=y, label_names=["A", "B"])
    data = load_dataset(str(path))
    np.testing.assert_equal(yes(data), [[1, NAN], [NAN, 0], [NAN, NAN], [0, 1], [1, 1]])
    assert data.notes == ["2 cells are −1 (uncertain): taken as unannotated."]
    data = load_dataset(str(path), uncertain="positive,B=soft=0.3")
    np.testing.assert_allclose(yes(data), [[1, 0.3], [1, 0], [NAN, NAN], [0, 1], [1, 1]])
    np.testing.assert_equal(yes(certain(data)), [[1, NAN], [NAN, 0], [NAN, NAN], [0, 1], [1, 1]])
    # Blank cells have a fate of their own; parts keep theirs apart, and columns go by their names.
    z = np.array([[1, NAN], [NAN, -1]])
    np.savez(path, x_train=x, y_train=y, x_test=x[:2], y_test=z, label_names=["B", "A"])
    data = load_dataset(str(path), space=LabelSpace.multilabel(["A", "B"]), uncertain="ignore", blank="negative")
    np.testing.assert_equal(np.array(yes(data))[[0, 1, 5, 6]], [[NAN, 1], [0, NAN], [0, 1], [NAN, 0]])
    assert data.annotation.ignored is not None
    # Of the last image one cell is uncertain and one blank.
    assert data.annotation.ignored[[0, 1, 6]].tolist() == [[True, False], [False, True], [True, False]]


def test_one_and_minus_one_without_zero_are_not_taken_for_yes_and_unknown(tmp_path: Path) -> None:
    path, x = tmp_path / "pack.npz", np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    np.savez(path, x=x, y=np.array([[1, -1], [-1, 1], [-1, -1]]))
    with pytest.raises(DataError, match=r"pack\.npz: the yes/no labels have 1 and -1 but no 0.*--uncertain negative"):
        load_dataset(str(path))
    data = load_dataset(str(path), uncertain="negative")
    np.testing.assert_equal(yes(data), [[1, 0], [0, 1], [0, 0]])
    assert "The yes/no labels have 1 and -1 but no 0: -1 is read as no." in data.notes
    np.savez(path, x=x, y=np.array([[1, -1], [NAN, 1], [-1, -1]]))
    data = load_dataset(str(path))
    np.testing.assert_equal(yes(data), [[1, NAN], [NAN, 1], [NAN, NAN]])
    assert any(note.startswith("The yes/no labels have 1 and -1 but no 0, and -1") for note in data.notes)


def test_what_is_unannotated_in_arrays_has_a_name(tmp_path: Path) -> None:
    path, x = tmp_path / "pack.npz", np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    np.savez(path, x=x, y=np.array([[1, 9], [0, 1], [9, 9]], dtype=np.uint8))
    np.testing.assert_equal(yes(load_dataset(str(path), unlabeled=9)), [[1, NAN], [0, 1], [NAN, NAN]])


def test_flags_of_cells_say_nothing_of_images_without_annotations(tmp_path: Path) -> None:
    path, x = tmp_path / "pack.npz", np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    np.savez(path, x=x[:2], y=np.array([1.0, NAN]), x_unlabeled=x[2:])
    one = LabelSpace.multilabel(["A"])
    data = load_dataset(str(path), space=one, blank="negative")
    np.testing.assert_equal(yes(data), [[1], [0], [NAN], [NAN]])
    np.savez(path, x=x, y=np.array([1, 0, -1, -1]))
    with pytest.raises(DataError, match="does not take --uncertain: of one label -1 is no annotation"):
        load_dataset(str(path), uncertain="positive")


# --- evaluating, planning -----------------------------------------------------------------------------------


def read(tmp_path: Path, rows: str, **options: Any) -> Any:
    names = [line.split(",")[0] for line in rows.split()]
    return load_folder(images(tmp_path, *names), table(tmp_path, f"file,A,B\n{rows}"), **options)


def test_uncertain_cells_are_not_scored_whatever_they_became(tmp_path: Path) -> None:
    data = read(tmp_path, "a.png,1,-1\nb.png,,0\nc.png,-1,1\n", uncertain="positive", blank="negative")
    np.testing.assert_equal(yes(certain(data)), [[1, NAN], [0, 0], [NAN, 1]])
    np.testing.assert_equal(yes(data), [[1, 1], [0, 0], [1, 1]])
    assert unscored(data) == ["2 uncertain cells are not scored."]
    arrays = vectors([[1.0, NAN], [0, 1]], LabelSpace.multilabel(2))
    assert certain(arrays) is arrays
    assert unscored(arrays) == []


def test_blank_cells_that_are_taken_as_a_probability_are_not_scored(tmp_path: Path) -> None:
    rows = "a.png,1,\nb.png,,0\nc.png,-1,1\n"
    data = read(tmp_path, rows, blank="A=soft=0.6,B=negative")
    np.testing.assert_equal(yes(certain(data)), [[1, 0], [NAN, 0], [NAN, 1]])
    assert data.annotation.observed[1, 0]
    assert unscored(data) == ["1 uncertain cell is not scored. 1 blank cell is not scored."]


def test_the_plan_says_what_each_cell_became(tmp_path: Path) -> None:
    data = read(tmp_path, "a.png,1,-1\nb.png,,0\nc.png,-1,1\n", uncertain="A=soft=0.5", blank="negative")
    facts = fingerprint(data)
    assert (facts.uncertain, facts.blank) == ((1, 1), (1, 0))
    lines = describe(facts, data.space, Plan()).splitlines()
    assert "  A: 3 known, 2 of them 1; in the table 1 uncertain → soft=0.5, 1 blank → negative" in lines
    assert "  B: 2 known, 1 of them 1; in the table 1 uncertain → latent" in lines


def test_ignored_cells_leave_nothing_to_estimate(tmp_path: Path) -> None:
    data = read(tmp_path, "a.png,1,-1\nb.png,1,0\nc.png,-1,1\n", uncertain="ignore")
    assert fingerprint(data).fully_annotated_images == 3
    assert fingerprint(read(tmp_path, "a.png,1,-1\nb.png,1,0\nc.png,-1,1\n")).fully_annotated_images == 1


# --- priors -------------------------------------------------------------------------------------------------


def test_a_stated_prevalence_is_the_prior() -> None:
    annotation = SPACE.encode([[1, 0, NAN], [1, NAN, NAN], [0, 1, NAN]])
    prior = np.exp(stated_prior(SPACE, SPACE.prior(annotation), {"B b": 0.03})).reshape(3, 2)
    np.testing.assert_allclose(prior, [[2 / 5, 3 / 5], [0.97, 0.03], [0.5, 0.5]], rtol=1e-6)
    for wrong in ({"D": 0.1}, {"A": 0.0}, {"A": 1.5}):
        with pytest.raises(LabelError, match="prevalence"):
            stated_prior(SPACE, SPACE.prior(annotation), wrong)
    with pytest.raises(LabelError, match="'kind' is not one of the yes/no labels"):
        stated_prior(MIXED, MIXED.prior(MIXED.encode(np.array([["cat", 1]], dtype=object))), {"kind": 0.1})


def test_a_stated_prevalence_reaches_the_model() -> None:
    data = vectors([[1.0, NAN], [0, 1]] * 10, LabelSpace.multilabel(["A", "B"]), prevalence=None)
    data.prevalence = {"B": 0.05}
    plan = Plan()
    plan.model.encoder, plan.model.width, plan.model.decoder_width = "mlp", 4, 4
    model = build_model(data, plan, fingerprint(data))
    np.testing.assert_allclose(model.log_prior.exp().numpy(), [0.5, 0.5, 0.95, 0.05], rtol=1e-5)


def test_classes_without_annotation_and_picked_ones_are_told() -> None:
    space = LabelSpace((Label("kind", ("cat", "dog", "fox")), Label("A", (0, 1)), Label("B", (0, 1))))
    y = np.array([["cat", 0, 1], ["dog", None, 0]] * 6, dtype=object)
    assert annotation_notes(vectors(y, space)) == ["No image is annotated with kind = fox, A = 1."]
    assert annotation_notes(vectors(np.full((6, 3), None), space)) == []
    picked = np.array(["cat", "dog"] * 5 + [None] * 10, dtype=object)
    one = LabelSpace.multiclass(["cat", "dog"])
    (note,) = annotation_notes(vectors(picked, one))
    assert note.startswith("Every class has 5 annotations, and p(c) is taken as equal for all classes: where they")
    assert annotation_notes(vectors(picked[:10], one)) == []
    picked[10] = "cat"
    assert annotation_notes(vectors(picked, one)) == []


def test_prevalences_of_classes() -> None:
    one = LabelSpace.multiclass(["cat", "dog", "fox"])
    given = parse_prevalence("cat=0.5,label=fox=0.1", one)
    assert given == {"cat": 0.5, "label=fox": 0.1}
    nothing = one.encode(np.full(4, None))
    np.testing.assert_allclose(np.exp(stated_prior(one, one.prior(nothing), given)), [0.5, 0.4, 0.1], rtol=1e-6)
    mixed = LabelSpace((Label("kind", ("cat", "dog")), Label("A", (0, 1))))
    both = parse_prevalence("kind=dog=0.2,A=0.3", mixed)
    prior = stated_prior(mixed, mixed.prior(mixed.encode(np.full((4, 2), None))), both)
    np.testing.assert_allclose(np.exp(prior), [0.8, 0.2, 0.7, 0.3], rtol=1e-6)
    for text, space, words in (
        ("cat=0.5", mixed, "'cat' is not one of the yes/no labels A, nor a class, such as kind=cat"),
        ("cat=0.5,dog=0.6", one, "those of the classes of 'label' add up to 1.1"),
        ("cat=0.5,dog=0.1,fox=0.1", one, "add up to 0.7"),
        ("cat=1.5", one, "cat=1.5 is not between 0 and 1"),
        ("cat=0.2,label=cat=0.3", one, "prevalence label=cat=0.3: this class has one already"),
    ):
        with pytest.raises(DataError, match=re.escape(words)):
            parse_prevalence(text, space)


def test_cells_filled_in_because_they_are_positive_are_suspected() -> None:
    space = LabelSpace.multilabel(["A", "B"])
    y = np.full((40, 2), NAN)
    y[:, 0] = np.arange(40) % 2
    y[:10, 1] = 1
    data = vectors(y, space)
    (note,) = annotation_notes(data)
    assert note.startswith("Nearly all observed cells are positive: B (10 of 10).")
    assert "--prevalence LABEL=P" in note
    assert annotation_notes(vectors(np.nan_to_num(y), space)) == []
    data.prevalence = {"B": 0.2}
    assert annotation_notes(data) == []
    # Cells missing at random, of a common finding.
    y[:, 1] = np.where(np.arange(40) % 2, NAN, np.arange(40) % 4 > 0)
    assert annotation_notes(vectors(y, space)) == []
    # One label alone, of which only positives were noted.
    single = np.where(np.arange(20) < 5, 1.0, NAN)[:, None]
    assert len(annotation_notes(vectors(single, LabelSpace.multilabel(["A"])))) == 1
    # What is ignored, or taken as negative, is no question.
    ignored = with_policy(
        vectors(single, LabelSpace.multilabel(["A"])), CellPolicy(blank="ignore"), np.ones(len(single), dtype=bool)
    )
    assert annotation_notes(ignored) == []
