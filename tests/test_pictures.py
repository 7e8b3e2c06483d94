from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Array
from taut.build import build_model
from taut.data.dataset import Dataset
from taut.facts import fingerprint
from taut.labels import LabelSpace
from taut.nn.vae import LabelVAE
from taut.report.pictures import every_label, reconstructions, reliability_diagram
from taut.rules import make_plan
from tiny import NAN, ONE, SEVERAL, cells, images, some_known, tiny

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


def test_the_reliability_diagram_encodes_each_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DATA["one label"]
    model = model_of(data)
    encoded: list[int] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda x: (encoded.append(len(x)), encode(x))[1])
    reliability_diagram(model, data, tmp_path / "picture.png")
    assert sum(encoded) == len(data)


def test_the_reliability_diagram_has_a_panel_for_each_annotated_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels without annotated cells have none, and beyond the most that are shown the rest is only counted."""
    monkeypatch.setattr("taut.report.pictures.MOST_PANELS", 2)
    sizes = {}
    for labels, known in ((1, 1), (3, 1), (3, 3)):
        y = cells(40, 1.0, labels)
        y[:, known:] = NAN
        data = images(y, LabelSpace.multilabel(labels))
        reliability_diagram(model_of(data), data, tmp_path / "picture.png")
        sizes[labels, known] = pixels(tmp_path / "picture.png").shape[:2]
    assert sizes[3, 1] == sizes[1, 1]
    assert sizes[3, 3][1] == pytest.approx(120 * 2.2 * 2, abs=2)
