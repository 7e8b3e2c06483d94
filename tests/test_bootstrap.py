from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score

from conftest import Array
from taut.evaluate.bootstrap import _decisions, _draws, bootstrap_intervals
from taut.evaluate.metrics import label_figures
from taut.labels import LabelSpace
from taut.report.tables import evaluation_text
from tiny import NAN, vectors

SEVERAL = LabelSpace.multilabel(3)


def some(n: int = 60, values: int = 7) -> tuple[Array, Array]:
    """Probabilities [N, 6] with many ties, and cells of which some are unknown."""
    rng = np.random.default_rng(0)
    p = rng.integers(0, values + 1, (n, 3)) / values
    y = (rng.random((n, 3)) < 0.15 + 0.6 * p).astype(float)
    y[rng.random((n, 3)) < 0.2] = NAN
    return np.stack([1 - p, p], axis=2).reshape(n, 6), y


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_intervals_are_those_of_scikit_learns_figures_of_every_draw(
    grouped: bool, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunked:
        monkeypatch.setattr("taut.evaluate.bootstrap.CELLS", 60 * 7)
    q, y = some()
    names = np.repeat(np.arange(15)[::-1], 4) if grouped else None
    found = bootstrap_intervals(q, vectors(y, SEVERAL, groups=names), resamples=50)
    assert found["resampled"] == ("15 groups" if grouped else "60 images")
    counts = np.concatenate(list(_draws(15 if grouped else 60, 50, 7 if chunked else 1000, 0)))
    macro: dict[str, list[list[float]]] = {"error": [], "auroc": [], "ap": []}
    for j in range(3):
        rows: dict[str, list[float]] = {"error": [], "auroc": [], "ap": []}
        seen = ~np.isnan(y[:, j])
        for draw in counts:
            weight = (draw[names] if names is not None else draw)[seen]
            truth, score = y[seen, j], q[seen, 2 * j + 1]
            rows["error"].append(100 * float(np.average((score > 0.5) != truth, weights=weight)))
            rows["auroc"].append(float(roc_auc_score(truth, score, sample_weight=weight)))
            rows["ap"].append(float(average_precision_score(truth, score, sample_weight=weight)))
        for name, values in rows.items():
            low, high = np.quantile(values, [0.025, 0.975])
            assert found["per_label"][f"label_{j}"][f"{name}_low"] == pytest.approx(low, abs=1e-5)
            assert found["per_label"][f"label_{j}"][f"{name}_high"] == pytest.approx(high, abs=1e-5)
            macro[name].append(values)
    for name, total in (("error", "error"), ("auroc", "auroc_macro"), ("ap", "ap_macro")):
        low, high = np.quantile(np.mean(macro[name], axis=0), [0.025, 0.975])
        assert (found[f"{total}_low"], found[f"{total}_high"]) == pytest.approx((low, high), abs=1e-5)


def test_a_draw_draws_as_many_groups_as_there_are() -> None:
    counts = np.concatenate(list(_draws(9, 25, 4, 3)))
    assert counts.shape == (25, 9)
    assert (counts.sum(axis=1) == 9).all()
    assert len(np.unique(counts, axis=0)) > 20
    np.testing.assert_array_equal(counts[:4], next(_draws(9, 25, 4, 3)))


def test_patients_with_many_alike_images_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random(40), (rng.random((40, 1)) < 0.5).astype(float)
    p, y = np.repeat(p, 10), np.repeat(y, 10, axis=0)
    q, space = np.stack([1 - p, p], axis=1), LabelSpace.multilabel(1)
    width = []
    for groups in (None, np.repeat(np.arange(40), 10)):
        found = bootstrap_intervals(q, vectors(y, space, groups=groups), resamples=300)
        width.append(found["auroc_macro_high"] - found["auroc_macro_low"])
    assert width[1] > 2 * width[0]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """AUROC of two normals a standard deviation apart is Φ(1/√2) = 0.760."""
    rng, space, covered = np.random.default_rng(0), LabelSpace.multilabel(1), 0
    for _ in range(100):
        y = (np.arange(120) % 2).astype(float)
        p = 1 / (1 + np.exp(-(y + rng.normal(size=120))))
        found = bootstrap_intervals(np.stack([1 - p, p], axis=1), vectors(y[:, None], space), resamples=200)
        covered += found["auroc_macro_low"] < 0.7602 < found["auroc_macro_high"]
    assert 88 <= covered <= 100


def test_decisions_have_intervals() -> None:
    q, y = some()
    data = vectors(y, SEVERAL)
    decided = SEVERAL.decide(q, [0.3] * len(SEVERAL))
    found = bootstrap_intervals(q, data, resamples=400, decided=decided)
    figures = label_figures(q, data, decided)
    for name in ("f1", "sensitivity", "specificity"):
        assert found[f"{name}_macro_low"] < figures[f"{name}_macro"] < found[f"{name}_macro_high"]
        for label, row in figures["per_label"].items():
            assert found["per_label"][label][f"{name}_low"] <= row[name] <= found["per_label"][label][f"{name}_high"]
    # Of one draw, in which each image is as often as it is, they are the figures themselves.
    seen = ~np.isnan(y[:, 0])
    one = _decisions(decided[seen, 0] == 1, y[seen, 0] == 1, np.ones((1, int(seen.sum()))))
    assert {name: round(float(v[0]), 6) for name, v in one.items()} == {
        name: figures["per_label"]["label_0"][name] for name in one
    }


def test_what_is_undefined_has_no_interval() -> None:
    q, y = some()
    y[:, 1], y[:, 2] = 1, NAN
    found = bootstrap_intervals(q, vectors(y, SEVERAL), resamples=20)
    assert set(found["per_label"]["label_1"]) == {"error_low", "error_high"}
    assert found["per_label"]["label_2"] == {}
    assert found["auroc_macro_low"] == found["per_label"]["label_0"]["auroc_low"]


def test_a_class_of_few_patients_has_no_interval() -> None:
    """With one patient of five positives, four of them found, every draw with that patient has a sensitivity of 0.8."""
    q, y = some()
    y[:, 0], groups = 0, np.arange(60)
    y[:5, 0], groups[:5] = 1, 0
    decided = SEVERAL.decide(q, [0.5] * len(SEVERAL))
    for patients, bounds in ((groups, False), (None, True)):
        row = bootstrap_intervals(q, vectors(y, SEVERAL, groups=patients), 100, decided=decided)["per_label"]["label_0"]
        for figure in ("sensitivity", "auroc", "ap", "f1"):
            assert (row[f"{figure}_low"] is not None) == bounds
            assert (row[f"{figure}_high"] is not None) == bounds
        assert row["error_low"] < row["error_high"]
        assert row["specificity_low"] < row["specificity_high"]
    alone = bootstrap_intervals(q, vectors(y, SEVERAL, groups=np.arange(60) // 20), 100)
    assert alone["error_low"] is None  # three groups in all
    assert alone["per_label"]["label_1"]["error_low"] is None


def test_draws_that_are_all_alike_have_exact_bounds_or_none() -> None:
    """Six patients found of six, and no error of 50: Clopper and Pearson, by scipy's beta quantiles."""
    y = (np.arange(50) < 6).astype(float)[:, None]
    q, space = np.concatenate([0.9 - 0.8 * y, 0.1 + 0.8 * y], axis=1), LabelSpace.multilabel(1)
    for patients, positive in ((None, 6), (np.r_[0, np.arange(49)], 5)):
        data = vectors(y, space, groups=patients)
        row = bootstrap_intervals(q, data, 100, decided=space.decide(q))["per_label"]["label_0"]
        all_of = 50 if patients is None else 49
        assert row["sensitivity_low"] == pytest.approx(beta.ppf(0.025, positive, 1), abs=1e-5)
        assert row["specificity_low"] == pytest.approx(beta.ppf(0.025, 44, 1), abs=1e-5)
        assert row["error_high"] == pytest.approx(100 * beta.ppf(0.975, 1, all_of), abs=1e-3)
        assert (row["sensitivity_high"], row["specificity_high"], row["error_low"]) == (1, 1, 0)
        assert {row[f"{name}_{end}"] for name in ("auroc", "ap", "f1") for end in ("low", "high")} == {None}
    row = bootstrap_intervals(q[:, ::-1], data, 100)["per_label"]["label_0"]
    assert (row["error_low"], row["error_high"]) == (pytest.approx(100 * beta.ppf(0.025, 49, 1), abs=1e-3), 100)


def test_the_bound_of_a_mean_counts_what_is_annotated() -> None:
    y = np.full((500, 1), NAN)
    y[:100, 0] = np.arange(100) % 2
    q, space = np.stack([1 - np.arange(500) % 2, np.arange(500) % 2], axis=1).astype(float), LabelSpace.multilabel(1)
    found = bootstrap_intervals(q, vectors(y, space), 50)
    assert found["error_high"] == found["per_label"]["label_0"]["error_high"] == pytest.approx(3.6217, abs=1e-3)
    # Alike in every draw but neither none nor all: one image of each patient is wrong.
    halves = vectors(np.ones((20, 1)), space, groups=np.repeat(np.arange(10), 2))
    assert bootstrap_intervals(q[:20], halves, 50)["error_low"] is None


def test_labels_of_too_few_patients_are_named_beside_the_means() -> None:
    q, y = some()
    assert bootstrap_intervals(q, vectors(y, SEVERAL), 20)["thin_labels"] == []
    y[:, 1] = np.arange(60) < 4
    y[:, 2] = 1  # of which there is no figure that needs both classes
    found = bootstrap_intervals(q, vectors(y, SEVERAL), 20)
    assert found["thin_labels"] == ["label_1"]
    figures = {"data": "d", "split": "test", "images": 60, "auroc_macro": 0.7, "per_label": {}, **found}
    assert "macro means are too narrow: of label_1 one class is in fewer than 5 images" in evaluation_text(
        {**figures, "per_label": {}}
    )


def test_a_label_that_a_draw_lacks_stays_in_the_mean() -> None:
    """Else the mean would be of other labels in each draw: here of one with an AUROC of 1 and of others near a half."""
    rng = np.random.default_rng(1)
    p, y = rng.random((200, 3)), (rng.random((200, 3)) < 0.5).astype(float)
    y[:, 0], p[:, 0] = 0, 0.1
    y[7, 0], p[7, 0] = 1, 0.9
    found = bootstrap_intervals(np.stack([1 - p, p], axis=2).reshape(200, 6), vectors(y, SEVERAL), resamples=400)
    assert found["per_label"]["label_0"]["auroc_low"] is None
    others = bootstrap_intervals(
        np.stack([1 - p, p], axis=2)[:, 1:].reshape(200, 4), vectors(y[:, 1:], LabelSpace.multilabel(2)), resamples=400
    )
    for bound in ("auroc_macro_low", "auroc_macro_high"):
        assert found[bound] == pytest.approx((1 + 2 * others[bound]) / 3, abs=1e-5)


def test_a_label_of_many_classes_has_an_interval_of_its_error() -> None:
    q = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    found = bootstrap_intervals(q, vectors(np.arange(50) % 3), resamples=100)
    assert found["error_low"] < 100 * np.mean(q.argmax(axis=1) != np.arange(50) % 3) < found["error_high"]
    assert set(found["per_label"]["label"]) == {"error_low", "error_high"}
    assert bootstrap_intervals(q, vectors(np.arange(50) % 3), resamples=100) == found
