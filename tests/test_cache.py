import dataclasses
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import taut
from image_files import BINARY, decoded_by, images, paint
from taut.data import DataError, cache, kept, leakage
from taut.data.cache import Header, decode_image, read_headers, read_images
from taut.data.folder import load_folder
from taut.data.mapped import MappedRows
from taut.fit import fit
from tiny import FLAGS, ONE, some_known, tiny, vectors


def test_default_sizes(tmp_path):
    def shape(*sizes):
        folder = tmp_path / str(sizes)
        for i, size in enumerate(sizes):
            paint(folder / f"{i}.png", size=size)
        data = load_folder(folder, space=BINARY)
        return data.x.shape[2:], data.notes[1:]

    assert shape((64, 40), (64, 40)) == ((64, 40), [])
    note = "Images of 20x30 to 28x24 pixels (height x width) are resized to 30x30."
    assert shape((28, 24), (20, 30)) == ((30, 30), [note])
    note = "Images of 65x40 pixels (height x width) are resized to 64x64."
    assert shape((65, 40)) == ((64, 64), [note])


def test_image_size_resizes_with_antialiasing(tmp_path):
    folder = tmp_path / "images"
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[:, ::2] = 200
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "stripes.png")
    data = load_folder(folder, space=BINARY, image_size=16)
    assert data.x.shape == (1, 1, 16, 16)
    assert np.abs(data.x.astype(int) - 100).max() < 20


def test_one_colour_image_makes_all_of_them_colour(tmp_path):
    folder = tmp_path / "images"
    paint(folder / "a.png", 100)
    paint(folder / "b.png", 60, mode="RGB")
    data = load_folder(folder, space=BINARY)
    assert data.x.shape == (2, 3, 8, 6)
    assert data.x[0].tolist() == np.full((3, 8, 6), 100).tolist()
    assert (
        "1 of 2 images are grey, the others in colour: all are read as RGB; --channels 1 reads them as grey."
        in data.notes
    )
    assert load_folder(folder, space=BINARY, channels=1).x[:, 0, 0, 0].tolist() == [100, 60]


def test_two_in_a_hundred_in_colour_make_none_of_them_colour(tmp_path):
    folder = tmp_path / "images"
    for i in range(100):
        paint(folder / f"{i:02}.png", 100 + i, mode="RGB" if i in (3, 40) else "L")
    data = load_folder(folder, space=BINARY)
    assert data.x.shape[1] == 1
    said = "2 images are in colour, the others grey: all are read as grey; --channels 3 reads them as RGB."
    assert said in data.notes
    assert load_folder(folder, space=BINARY, channels=3).x.shape[1] == 3
    paint(folder / "50.png", 7, mode="RGB")
    assert load_folder(folder, space=BINARY).x.shape[1] == 3


def test_modes(tmp_path):
    grey = np.full((4, 5), 128, dtype=np.uint8)
    paths = {name: tmp_path / f"{name}.png" for name in ("alpha", "deep", "palette", "bits", "rgba")}
    Image.fromarray(np.stack([grey, grey // 2], axis=2), mode=None).save(paths["alpha"])
    Image.fromarray(np.full((4, 5), 128 * 257, dtype=np.uint16)).save(paths["deep"])
    palette = Image.fromarray(np.stack([grey] * 3, axis=2)).quantize(4)
    palette.save(paths["palette"], transparency=bytes([0, 10, 255, 255]))
    Image.fromarray(grey > 100).save(paths["bits"])
    Image.fromarray(np.stack([grey, grey, grey, grey * 0], axis=2)).save(paths["rgba"])
    for channels in (1, 3):
        x, failures = read_images(list(paths.values()), (channels, 4, 5))
        assert failures == []
        values = [sorted(set(image.ravel().tolist())) for image in x]
        assert values == [[128], [128], [128], [255], [128]]


def test_what_is_transparent_is_on_white(tmp_path):
    alpha = np.zeros((8, 8), dtype=np.uint8)
    alpha[2:4] = 255
    for colour, ground in ((0, 255), (90, 255), (255, 0)):  # a white drawing is on black
        pixels = np.stack([np.full_like(alpha, colour)] * 3 + [alpha], axis=-1)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        for channels in (1, 3):
            (read,), _ = read_images([tmp_path / "a.png"], (channels, 8, 8))
            assert (read == np.where(alpha, colour, ground)).all()
    constant = np.full((8, 8, 4), 40, dtype=np.uint8)
    Image.fromarray(constant).save(tmp_path / "a.png")
    assert (read_images([tmp_path / "a.png"], (3, 8, 8))[0] == 40).all()
    Image.fromarray(alpha // 2).save(tmp_path / "a.png", transparency=0)
    assert (read_images([tmp_path / "a.png"], (1, 8, 8))[0] == np.where(alpha, 127, 255)).all()


def test_deep_pixels_keep_their_range_when_resized(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (8, 1))).save(tmp_path / "ramp.png")
    x, _ = read_images([tmp_path / "ramp.png"], (1, 8, 64))
    assert x[0, 0, 0, 0] <= 3
    assert x[0, 0, 0, -1] >= 252
    assert (np.diff(x[0, 0, 0].astype(int)) >= 3).all()


def test_float_pixels_are_not_guessed(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(path)
    assert read_images([path], (1, 4, 4))[1] == [
        (path, "32-bit pixels have no agreed range: save it with 8 or 16 bits")
    ]


def test_damaged_metadata_loses_no_image(tmp_path, monkeypatch):
    def damaged(self):
        raise SyntaxError("not a TIFF file")

    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    monkeypatch.setattr(Image.Image, "getexif", damaged)
    assert read_headers([tmp_path / "a.jpg"]) == [Header(6, 8, True, False)]
    assert np.abs(decode_image(tmp_path / "a.jpg", (1, 6, 8))[0].astype(int) - pixels).max() < 9


def test_exif_orientation(tmp_path):
    pixels = np.zeros((20, 40), dtype=np.uint8)
    pixels[:, :20] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: what was left comes to the top
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "turned.jpg", exif=exif, quality=95)
    data = load_folder(tmp_path / "images", space=BINARY)
    assert data.x.shape == (1, 1, 40, 20)
    assert data.x[0, 0, :16].min() > 230
    assert data.x[0, 0, 24:].max() < 20


def test_read_images_names_those_that_fail(tmp_path):
    good = [paint(tmp_path / f"{i}.png", i) for i in range(2)]
    bad = tmp_path / "bad.png"
    bad.write_text("text")
    gone = tmp_path / "gone.png"
    x, failures = read_images([good[0], bad, gone, good[1]], (1, 8, 6))
    assert x[:, 0, 0, 0].tolist() == [0, 1]
    assert failures == [(bad, "it is not an image that Pillow knows"), (gone, "No such file or directory")]


# --- the cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_limit(tmp_path, monkeypatch):
    """Every data set is too large for memory, and the cache lies in a temporary folder."""
    monkeypatch.setattr(cache, "CACHE_BYTES", 0)
    monkeypatch.setattr(cache, "MAP_BYTES", 0)
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_large_sets_are_decoded_once(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png")
    cut = paint(folder / "cat" / "0.jpg", size=(60, 60))
    cut.write_bytes(cut.read_bytes()[:1500])
    first = load_folder(folder, image_size=8)
    assert isinstance(first.x, np.memmap)
    assert first.ids == ["cat/1.png", "cat/2.png", "dog/3.png"]
    assert sorted(path.suffix for path in small_limit.iterdir()) == [".json", ".npy"]
    names, again = decoded_by(monkeypatch, lambda: load_folder(folder, image_size=8))
    assert names == ["0.jpg"]
    np.testing.assert_array_equal(first.x, again.x)
    assert again.notes == first.notes
    assert "1 image cannot be read" in again.notes[0]
    monkeypatch.setattr(cache, "CACHE_BYTES", 2**25)
    np.testing.assert_array_equal(load_folder(folder, image_size=8).x, first.x)


def test_what_fits_into_memory_is_decoded_once_too(tmp_path, small_limit, monkeypatch):
    monkeypatch.setattr(cache, "MAP_BYTES", 2**30)
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    first = load_folder(folder)
    assert sorted(path.suffix for path in small_limit.iterdir()) == [".json", ".npy"]
    monkeypatch.setattr(cache, "decode_image", lambda *_: pytest.fail("decoded again"))
    again = load_folder(folder)
    assert not isinstance(again.x, np.memmap)
    np.testing.assert_array_equal(first.x, again.x)


def test_a_set_of_32_mib_is_not_kept_and_a_larger_one_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_decoded", lambda *_, **__: iter(()))
    for count, expected in ((8192, False), (8193, True)):
        cache.decode_once(tmp_path, ["1.png"] * count, (1, 64, 64))
        assert any((tmp_path / "cache").glob("*.npy")) == expected


def test_what_fits_into_memory_needs_no_cache_folder(tmp_path, small_limit, monkeypatch):
    monkeypatch.setattr(cache, "MAP_BYTES", 2**30)
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    small_limit.write_text("a file in the way")
    assert len(load_folder(folder)) == 2
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    assert len(load_folder(folder)) == 2
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (7, 7), (500, 32)])
def test_images_are_decoded_by_all_cores(tmp_path, monkeypatch, cores, threads):
    used = []
    pool = cache.ThreadPoolExecutor
    monkeypatch.setattr(cache.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(cache, "ThreadPoolExecutor", lambda count: (used.append(count), pool(count))[1])
    assert len(read_images([paint(tmp_path / "1.png")], (1, 8, 6))[0]) == 1
    assert used == [threads]


def test_rows_of_large_sets_stay_on_the_disk(tmp_path, small_limit):
    folder = images(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(6)))
    data = load_folder(folder, image_size=8)
    whole = np.array(data.x)
    some = data.rows(np.array([7, 2, 9, 0]))
    assert isinstance(some.x, MappedRows)
    assert (some.x.shape, some.x.dtype, some.x.ndim, some.x.size) == ((4, *whole.shape[1:]), np.uint8, 4, 4 * 64)
    fewer = some.rows(np.array([True, False, True, True]))
    assert isinstance(fewer.x, MappedRows)
    np.testing.assert_array_equal(fewer.x, whole[[7, 9, 0]])
    np.testing.assert_array_equal(fewer.x[1:], whole[[9, 0]])
    np.testing.assert_array_equal(fewer.x[2], whole[0])
    assert isinstance(data.rows(np.arange(3, 8)).x, np.memmap)


def test_held_out_images_stay_on_the_disk_after_training(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(20)))
    given = []
    monkeypatch.setattr("taut.fit.fit_ood", lambda model, training, held, decodes: given.append(held))
    fit(load_folder(folder, image_size=8), tiny(train={"valid_fraction": 0.3}), quiet=True)
    (held,) = given
    assert isinstance(held, MappedRows)
    assert 8 <= len(held) <= 16


def test_rows_are_searched_for_nan_once_and_in_blocks(tmp_path, monkeypatch):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(40, 4))
    x[:] = np.arange(160).reshape(40, 4)
    looked = []
    isfinite = np.isfinite
    monkeypatch.setattr("taut.data.mapped.BLOCK_VALUES", 32)
    monkeypatch.setattr("taut.data.mapped.np.isfinite", lambda part: (looked.append(len(part)), isfinite(part))[1])
    data = vectors(some_known(40), ONE)
    looked.clear()
    data = dataclasses.replace(data, x=x)
    assert looked == [8] * 5
    some = data.rows(np.array([9, 2, 30])).rows(np.array([True, False, True]))
    assert isinstance(some.x, MappedRows)
    assert looked == [8] * 5
    assert dataclasses.replace(some, name="other").x is some.x
    assert looked == [8] * 5
    x[21, 3] = np.nan
    with pytest.raises(DataError, match=r"row 21 \(21\) contains NaN"):
        dataclasses.replace(data, x=x[:])


def test_a_large_set_is_trained_on_as_a_small_one_is(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(20)))
    hashed = []
    key = leakage.pixel_key
    monkeypatch.setattr(leakage, "pixel_key", lambda pixels: (hashed.append(1), key(pixels))[1])
    for limit, run in ((0, "large"), (2**30, "small")):
        monkeypatch.setattr(cache, "MAP_BYTES", limit)
        monkeypatch.setattr(cache, "CACHE_BYTES", limit)
        flags = ("--image-size", 8, "--split-fractions", "0.6,0.2,0.2", *FLAGS, "--out", tmp_path / run, "--quiet")
        hashed.clear()
        taut("train", folder, *flags)
        assert len(hashed) == 40
        taut("evaluate", tmp_path / run)
    large, small = (json.loads((tmp_path / run / "evaluation.json").read_text()) for run in ("large", "small"))
    assert large == small


def test_a_changed_file_is_decoded_again(tmp_path, small_limit):
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    before = load_folder(folder).x[0].copy()
    paint(folder / "cat/1.png", 7)
    after = load_folder(folder).x[0]
    assert not (before == 7).all()
    assert (after == 7).all()


def test_only_what_is_new_is_decoded(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png")
    first = np.array(load_folder(folder, image_size=8).x)
    (folder / "cat" / "0.jpg").write_bytes(b"no image")
    paint(folder / "cat" / "1b.png", 9)
    paint(folder / "dog" / "3.png", 7)
    names, data = decoded_by(monkeypatch, lambda: load_folder(folder, image_size=8))
    assert names == ["1b.png", "3.png"]
    assert data.ids == ["cat/1.png", "cat/1b.png", "cat/2.png", "dog/3.png"]
    np.testing.assert_array_equal(data.x[[0, 2]], first[:2])
    assert (data.x[1] == 9).all()
    assert (data.x[3] == 7).all()
    # The first array has the former dog, and serves no more.
    assert len(list(small_limit.glob("*.npy"))) == len(list(small_limit.glob("*.json"))) == 1


def test_lists_of_one_folder_share_what_is_decoded(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, "1.png", "2.png", "3.png", "4.png")
    shape = (1, 8, 8)
    (folder / "broken.png").write_bytes(b"no image")

    def read(*files):
        return decoded_by(monkeypatch, lambda: cache.decode_once(folder, files, shape))

    names, (first, failures) = read("broken.png", "3.png", "1.png")
    assert names == ["1.png", "3.png", "broken.png"]
    assert list(failures) == [0]
    names, (second, failures) = read("1.png", "2.png", "broken.png")
    assert names == ["2.png", "broken.png"]  # what could not be read may be readable by now
    assert list(failures) == [2]
    np.testing.assert_array_equal(second[0], first[1])
    assert len(list(small_limit.glob("*.npy"))) == 2
    assert read("broken.png", "3.png", "1.png")[0] == ["broken.png"]
    # Of a list with a repetition every image stays with its name.
    names, (twice, _) = read("3.png", "1.png", "3.png", "4.png", "2.png")
    assert names == ["4.png"]
    names, (everything, _) = read("4.png", "2.png", "1.png", "3.png", "broken.png")
    assert names == ["broken.png"]
    np.testing.assert_array_equal(everything, twice[[3, 4, 1, 0]])
    np.testing.assert_array_equal(everything[[3, 2]], first)
    # What a longer list has too is not kept twice.
    assert len(list(small_limit.glob("*.npy"))) == 1
    # Nor do another shape or another folder of the same names take anything over.
    assert decoded_by(monkeypatch, lambda: cache.decode_once(folder, ["1.png"], (3, 8, 8)))[0] == ["1.png"]
    other = images(tmp_path / "other", "1.png", "2.png")
    for name in ("1.png", "2.png"):
        os.utime(other / name, ns=(0, (folder / name).stat().st_mtime_ns))
    assert decoded_by(monkeypatch, lambda: cache.decode_once(other, ["1.png"], shape))[0] == ["1.png"]


def test_an_interrupted_run_leaves_nothing_that_looks_complete(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "decode_image", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_folder(folder)
    assert list(small_limit.iterdir()) == []
    assert len(load_folder(folder)) == 2


def test_a_full_disk(tmp_path, small_limit, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DataError, match=r"decoded images take .* GiB, more than is free .*TAUT_CACHE.*--image-size"):
        load_folder(images(tmp_path, "cat/1.png", "dog/2.png"))


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("TAUT_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache.cache_root() == tmp_path / ".cache" / "taut"


def test_a_file_that_can_be_read_again_is(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, "1.png", "2.png", "3.png")
    shape, away, decode = (1, 8, 8), ["2.png"], cache.decode_image

    def flaky(path, *how):
        if path.name in away:
            raise OSError("the drive is away")
        return decode(path, *how)

    monkeypatch.setattr(cache, "decode_image", flaky)
    files = ["1.png", "2.png", "3.png"]
    assert list(cache.decode_once(folder, files, shape)[1]) == [1]
    away.clear()
    names, (found, failures) = decoded_by(monkeypatch, lambda: cache.decode_once(folder, files, shape))
    assert names == ["2.png", "2.png"]
    assert (len(found), failures) == (3, {})
    assert decoded_by(monkeypatch, lambda: cache.decode_once(folder, files, shape))[0] == []


def test_memory_that_runs_out_is_not_the_file_s_fault(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, "1.png", "2.png")
    monkeypatch.setattr(cache, "decode_image", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        cache.decode_once(folder, ["1.png", "2.png"], (1, 8, 8))
    assert list(small_limit.iterdir()) == []


def test_an_array_that_another_process_deletes_is_made_anew(tmp_path, small_limit, monkeypatch):
    folder = images(tmp_path, "1.png", "2.png")
    read = kept.Kept.images
    lost = []

    def once_gone(self, mapped):
        if not lost:
            lost.append(self.array)
            self.array.unlink()
        return read(self, mapped)

    monkeypatch.setattr(kept.Kept, "images", once_gone)
    found, failures = cache.decode_once(folder, ["1.png", "2.png"], (1, 8, 8))
    assert lost
    assert (len(found), failures) == (2, {})


def colours_of_16_bits(path, values):
    """A PNG file of 16 bits a channel from values [h, w, 3], which Pillow cannot write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*parts, (b"IEND", b"")]
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def test_dim_colours_of_16_bits_are_refused_and_bright_ones_are_read(tmp_path):
    values = np.arange(4 * 5 * 3).reshape(4, 5, 3)
    bright = colours_of_16_bits(tmp_path / "bright.png", values * 1000)
    np.testing.assert_array_equal(cache.decode_image(bright, (3, 4, 5)).transpose(1, 2, 0), values * 1000 // 256)
    dim = colours_of_16_bits(tmp_path / "dim.png", values * 60)
    with pytest.raises(ValueError, match="16 bits a channel and uses few of them: save it with 8"):
        cache.decode_image(dim, (3, 4, 5))
    black = colours_of_16_bits(tmp_path / "black.png", values * 0)
    assert not cache.decode_image(black, (3, 4, 5)).any()
