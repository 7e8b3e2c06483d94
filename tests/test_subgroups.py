"""Figures of each value of a column of the label table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from commands import Capture, refused, taut
from image_files import paint, table
from taut.data.dataset import Dataset
from taut.subgroups import images_by
from tiny import FLAGS, vectors


def of_rows(values: list[str | None], **parts: Any) -> tuple[Any, Dataset]:
    """A column of a table, and annotated inputs of which each is named by a row of it."""
    rows = np.arange(2, 2 + len(values))
    return pd.Series(values, index=rows, name="age", dtype="str"), vectors(
        np.arange(len(values)) % 3, lines=rows, **parts
    )


def test_many_numbers_are_in_quarters_and_few_are_values() -> None:
    column, dataset = of_rows([str(20 + i) for i in range(100)])
    found = images_by(column, dataset)
    assert list(found.images) == ["up to 44.75", "up to 69.5", "up to 94.25", "above 94.25"]
    assert [len(rows) for rows in found.images.values()] == [25, 25, 25, 25]
    np.testing.assert_array_equal(found.images["above 94.25"], np.arange(75, 100))
    column, dataset = of_rows([str(10 * (i % 3)) for i in range(90)])
    assert list(images_by(column, dataset.rows(np.arange(90)[::-1])).images) == ["0", "10", "20"]


def test_an_image_has_the_value_of_its_row_or_of_another_row_of_it() -> None:
    column, dataset = of_rows([None, *["F"] * 40, None, "M", *["M"] * 21, "X"])
    dataset = replace(dataset, repeats={44: 2, 3: 4})
    found = images_by(column, dataset)
    assert found.images["M"].tolist() == [0, *range(42, 64)]
    assert (len(found.images["F"]), found.too_small, found.unknown) == (40, {"X": 1}, 1)


def test_values_without_enough_annotated_images_have_no_figures(capsys: Capture) -> None:
    column, dataset = of_rows(["a"] * 30 + ["b"] * 30)
    hidden = dataset.annotation.observed.copy()
    hidden[30:45] = False
    dataset = replace(dataset, annotation=replace(dataset.annotation, observed=hidden))
    found = images_by(column, dataset)
    assert (list(found.images), found.too_small) == (["a"], {"b": 15})


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """72 images with a table of two findings: 20 to train on, of one sex, and 52 to test on."""
    rng = np.random.default_rng(0)
    sexes = ["F"] * 20 + ["F"] * 24 + ["M"] * 22 + ["X"] * 4 + [""] * 2
    lines = ["file,Edema,Mass,part,sex,patient"]
    for i, sex in enumerate(sexes):
        paint(tmp_path / "images" / f"{i}.png")
        edema, mass = rng.integers(0, 2, 2)
        lines.append(f"{i}.png,{edema},{mass},{'train' if i < 20 else 'test'},{sex},p{i}")
    return table(tmp_path, "\n".join(lines) + "\n", "hospital.csv")


def test_figures_of_the_values_of_a_column(hospital: Path, tmp_path: Path, capsys: Capture) -> None:
    run, images = tmp_path / "run", tmp_path / "images"
    labels = ("--label-columns", "Edema,Mass", "--split-column", "part")
    taut("train", hospital, "--images", images, *labels, *FLAGS, "--out", run, "--quiet")
    taut("evaluate", run, "--by", "sex", "--resamples", 50)
    said = capsys.readouterr().out
    assert "by sex:\n" in said
    assert "too few annotated images for figures: X (4)\n2 images have no sex" in said
    figures = json.loads((run / "evaluation.json").read_text())
    by = figures.pop("by")
    assert {**by, "values": list(by["values"])} == {
        "column": "sex", "values": ["F", "M"], "too_small": {"X": 4}, "unknown": 2
    }  # fmt: skip
    assert [row["images"] for row in by["values"].values()] == [24, 22]
    assert "these means are not over the same labels" not in said
    taut("evaluate", run, "--resamples", 50)
    assert json.loads((run / "evaluation.json").read_text()) == figures
    # Each is what an evaluation of its images alone would say, of other data too.
    rows = pd.read_csv(hospital, dtype=str, keep_default_na=False).query("part == 'test'").drop(columns="part")
    for value, name in (("M", "men"), ("F", "women")):
        rows[rows["sex"] == value].to_csv(tmp_path / f"{name}.csv", index=False)
        flags = ("--data", tmp_path / f"{name}.csv", "--images", images, "--resamples", 50)
        taut("evaluate", run, *flags, "--by", "sex")
        alone = json.loads((run / f"evaluation-images-{name}" / "evaluation.json").read_text())
        assert list(alone["by"]["values"]) == [value]
        for row in (alone, alone["by"]["values"][value]):
            for figure in ("images", "auroc_macro", "ap_macro", "error", "ece", "error_low", "elbo"):
                assert row[figure] == pytest.approx(by["values"][value][figure], rel=1e-4), figure
    cells = pd.read_csv(hospital, dtype=str, keep_default_na=False)
    cells.loc[(cells["sex"] == "F") & (cells["part"] == "test"), "Mass"] = "0"
    cells.to_csv(hospital, index=False)
    capsys.readouterr()
    taut("evaluate", run, "--by", "sex", "--resamples", 50)
    assert "these means are not over the same labels" in capsys.readouterr().out
    assert f"{hospital}: --by 'age' is not a column" in said_of_failure(capsys, "evaluate", run, "--by", "age")
    assert "no value has the 20 annotated images" in said_of_failure(capsys, "evaluate", run, "--by", "patient")


def said_of_failure(capsys: Capture, *arguments: Any) -> str:
    """All that a command that fails says on standard error, its notes too."""
    with pytest.raises(SystemExit):
        taut(*arguments)
    return capsys.readouterr().err


def test_a_column_needs_a_table(tmp_path: Path, capsys: Capture) -> None:
    x = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "pack.npz", x=x, y=np.arange(24) % 2)
    taut("train", tmp_path / "pack.npz", *FLAGS, "--out", tmp_path / "run", "--quiet")
    capsys.readouterr()
    said = refused(capsys, "evaluate", tmp_path / "run", "--by", "sex")
    assert said == f"--by sex is for a column of a label table, which {tmp_path / 'pack.npz'} has not"
