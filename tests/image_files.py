"""Image files and tables for tests of reading them."""

import csv

import numpy as np
from PIL import Image

from taut.data import cache
from taut.labels import LabelSpace

BINARY = LabelSpace.multilabel(["A", "B"])


def paint(path, value=None, size=(8, 6), mode="L"):
    """An image file [height, width] of noise that differs from path to path, or of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, len(mode))
    rng = np.random.default_rng(list("/".join(path.parts[-3:]).encode()))
    pixels = rng.integers(0, 256, shape) if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8), mode=None).save(path)
    return path


def table(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text)
    return path


def images(tmp_path, *names, **options):
    for name in names:
        paint(tmp_path / "images" / name, **options)
    return tmp_path / "images"


def yes(data):
    """The cells of yes/no labels with NaN where unannotated."""
    return np.where(data.annotation.observed, data.annotation.targets[:, 1::2], np.nan).tolist()


def classes(data):
    return data.space.decode(data.annotation, None).tolist()


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def decoded_by(monkeypatch, read):
    """The names of the files that `read` decodes, and what it returns."""
    names, decode = [], cache.decode_image
    with monkeypatch.context() as patch:
        patch.setattr(cache, "decode_image", lambda path, *how: (names.append(path.name), decode(path, *how))[1])
        found = read()
    return sorted(names), found
