from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Array
from taut.data.dataset import Dataset
from taut.fit import build_model
from taut.nn.vae import LabelVAE
from taut.plan import fingerprint, make_plan
from taut.report.pictures import confidences, every_label, reconstructions, reliability_diagram
from tiny import NAN, ONE, SEVERAL, cells, images, some_known, tiny, vectors

DATA = {
    "one label": images(some_known(40, 30)),
    "several labels": images(cells(40), SEVERAL),
    "colour, fewer images than places": images(some_known(4, 4), channels=3),
}


def model_of(data: Dataset) -> LabelVAE:
    facts = fingerprint(data)
    return build_model(data, tiny()(make_plan(facts)), facts).eval()


def pixels(path: Path) -> Array:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("draw", [reconstructions, every_label, reliability_diagram], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", DATA)
def test_a_picture_is_drawn(draw: Callable[..., Any], name: str, tmp_path: Path) -> None:
    data, path = DATA[name], tmp_path / "picture.png"
    draw(model_of(data), data, path)
    shown = pixels(path)
    assert min(shown.shape[:2]) > 50
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 20
    other = tmp_path / "other.png"
    again = images(some_known(40, 30), seed=9) if data.space == ONE else images(cells(40, seed=9), SEVERAL, seed=9)
    if data.x.shape[1] == 1:
        draw(model_of(again), again, other)
        assert not np.array_equal(pixels(other), shown)


def test_a_picture_shows_the_images_it_is_given(tmp_path: Path) -> None:
    """Black, white and grey images come out as black, white and grey squares."""
    data = images(some_known(3, 3))
    data.x[:] = np.array([0, 255, 128], dtype=np.uint8)[:, None, None, None]
    reconstructions(model_of(data), data, tmp_path / "picture.png", count=3)
    shown = pixels(tmp_path / "picture.png")
    upper = shown[: len(shown) // 2]
    for value in (0, 255, 128):
        assert (upper == value).all(axis=2).mean() > 0.05


def test_every_label_has_its_column(tmp_path: Path) -> None:
    """One image and one square for each class, or each yes/no label: wider with more of them."""
    widths = []
    for space, y in ((ONE, some_known()), (SEVERAL, cells())):
        data = images(y, space)
        every_label(model_of(data), data, tmp_path / "picture.png", count=2)
        widths.append(pixels(tmp_path / "picture.png").shape[1])
    assert widths[0] - widths[1] == pytest.approx(0.7 * 120, abs=2)  # one class more than labels


def test_the_reliability_diagram_takes_annotated_cells_only() -> None:
    data = vectors(np.array([[1, 0], [0, NAN], [NAN, 1]]), SEVERAL)
    q = np.array([[0.1, 0.9, 0.6, 0.4], [0.8, 0.2, 0.5, 0.5], [0.5, 0.5, 0.3, 0.7]])
    said, happened = confidences(q, data)
    assert said.tolist() == [0.9, 0.2, 0.4, 0.7]
    assert happened.tolist() == [True, False, False, True]
    said, happened = confidences(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), vectors(np.array([1, 2])))
    assert said.tolist() == [0.5, 0.7]
    assert happened.tolist() == [False, True]
