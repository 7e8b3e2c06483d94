"""Files that hold more than one image are no images of a data set."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from image_files import BINARY, paint, rows_of
from taut.data.cache import read_images
from taut.data.folder import load_folder

REASONS = {
    "z.tif": "the file holds 3 pages, and not one image",
    "a.gif": "the file holds 3 frames, and not one image",
    "a.png": "the file holds 3 frames, and not one image",
    "a.webp": "the file holds 3 frames, and not one image",
}


def pictures(count, size=(8, 6)):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("name", REASONS)
def test_a_file_of_several_images_is_left_out(tmp_path, name):
    first, *others = pictures(3)
    folder = tmp_path / "images"
    paint(folder / "one.png")
    first.save(folder / name, save_all=True, append_images=others)
    first.save(folder / f"single-{name}")
    data = load_folder(folder, space=BINARY, skipped=tmp_path / "skipped.csv")
    assert data.ids == ["one.png", f"single-{name}"]
    assert [(row["file"], row["reason"]) for row in rows_of(tmp_path / "skipped.csv")] == [(name, REASONS[name])]
    # Those to predict have no table of headers before.
    x, failures = read_images([folder / name, folder / "one.png"], (1, 8, 6))
    assert len(x) == 1
    assert failures == [(folder / name, REASONS[name])]


def test_smaller_versions_of_an_image_are_no_further_images(tmp_path):
    (image,) = pictures(1, (64, 64))
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "pyramid.tif"), new=True) as file:
        for side, kind in ((64, 0), (32, 1), (16, 1)):
            image.resize((side, side)).save(file, "TIFF", tiffinfo={254: kind})
            file.newFrame()
    image.save(tmp_path / "camera.jpg", "MPO", save_all=True, append_images=[image.resize((16, 16))])
    x, failures = read_images([tmp_path / "pyramid.tif", tmp_path / "camera.jpg"], (1, 64, 64))
    assert failures == []
    np.testing.assert_array_equal(x[0, 0], np.asarray(image))
