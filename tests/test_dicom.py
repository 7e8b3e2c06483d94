from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import Capture, taut
from image_files import paint, rows_of, table, yes
from packs import PACKS, needs
from taut.data import DataError, dicom
from taut.data.cache import decode_image, decode_once, read_images
from taut.data.dicom import Header, is_dicom, read_dicom, read_dicom_header
from taut.data.files import find_images
from taut.data.folder import load_folder
from tiny import FLAGS

pydicom = pytest.importorskip("pydicom")
RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80  # 0 to 3760 of 4095


def sample(name: str) -> Path:
    """A file that comes with pydicom."""
    return Path(pydicom.__file__).parent / "data" / "test_files" / name


def write(path: Path, pixels: Any = RAMP, bits: int = 12, photometric: str = "MONOCHROME2", **elements: Any) -> Path:
    """An uncompressed DICOM file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    pixels = np.asarray(pixels)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def spread(values: Any, low: float, high: float) -> Any:
    return np.clip((np.asarray(values, dtype=float) - low) * 255 / (high - low), 0, 255)


# --- grey values --------------------------------------------------------------------------------------------


def test_deep_values_without_a_window_are_spread(tmp_path: Path) -> None:
    got = read_dicom(write(tmp_path / "a.dcm"))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, spread(RAMP, 0, 3760), atol=1e-3)
    np.testing.assert_allclose(read_dicom(write(tmp_path / "b.dcm", RAMP + 100)), spread(RAMP, 0, 3760), atol=1e-3)
    assert np.all(read_dicom(write(tmp_path / "c.dcm", np.full((3, 3), 7, dtype=np.uint16))) == 0)


def test_more_is_darker_in_monochrome1(tmp_path: Path) -> None:
    got = read_dicom(write(tmp_path / "a.dcm", photometric="MONOCHROME1"))
    np.testing.assert_allclose(got, 255 - spread(RAMP, 0, 3760), atol=1e-3)


def test_the_first_window_is_applied(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1: linear between c − 0.5 − (w − 1)/2 and c − 0.5 + (w − 1)/2.
    low, high = 1000 - 0.5 - 499 / 2, 1000 - 0.5 + 499 / 2
    for center, width in ((1000, 500), ([1000, 50], [500, 60])):
        path = write(tmp_path / "a.dcm", WindowCenter=center, WindowWidth=width)
        np.testing.assert_allclose(read_dicom(path), spread(RAMP, low, high), atol=0.01)
    sigmoid = write(tmp_path / "s.dcm", WindowCenter=1000, WindowWidth=3, VOILUTFunction="SIGMOID")
    values = np.clip(-4 * (RAMP.astype(float) - 1000) / 3, -700, 700)
    np.testing.assert_allclose(read_dicom(sigmoid), 255 / (1 + np.exp(values)), atol=0.01)


def test_a_window_without_a_width_is_none(tmp_path: Path) -> None:
    plain = read_dicom(write(tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "b.dcm", WindowCenter=0, WindowWidth=0)), plain)
    exact = write(tmp_path / "c.dcm", WindowCenter=1000, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(read_dicom(exact), 255.0 * (RAMP > 1000), atol=0.01)


def test_slope_and_intercept_come_before_the_window(tmp_path: Path) -> None:
    signed = (RAMP.astype(np.int16) - 1000).astype(np.int16)
    path = write(
        tmp_path / "a.dcm", signed, bits=16, RescaleSlope=2, RescaleIntercept=-500, WindowCenter=0, WindowWidth=1001
    )
    np.testing.assert_allclose(read_dicom(path), spread(signed * 2.0 - 500, -500.5, 499.5), atol=0.01)


def test_a_negative_slope_shows_what_is_above_the_window_as_bright(tmp_path: Path) -> None:
    stated = {"RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 2048, "WindowWidth": 4096}
    got = read_dicom(write(tmp_path / "a.dcm", **stated))
    np.testing.assert_allclose(got, spread(4095 - RAMP.astype(float), 0, 4095), atol=0.01)


def test_an_empty_function_of_a_window_is_the_linear_one(tmp_path: Path) -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 500}
    plain = read_dicom(write(tmp_path / "a.dcm", **window))
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "b.dcm", **window, VOILUTFunction="")), plain)


def test_a_table_of_more_values_than_its_entries_can_count(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 8])
    entries = np.arange(4096) // 16
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    got = read_dicom(write(tmp_path / "a.dcm", VOILUTSequence=[item]))
    np.testing.assert_allclose(got, entries[RAMP], atol=1e-3)


def test_a_table_of_values_of_interest(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", "OW", np.arange(256)[::-1].astype("<u2").tobytes())
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 4
    path = write(tmp_path / "a.dcm", pixels, VOILUTSequence=[item], WindowCenter=10, WindowWidth=3)
    np.testing.assert_allclose(read_dicom(path), 255 - pixels, atol=1e-3)


@pytest.mark.parametrize(("kind", "low", "high"), [("u2", 0, 4096), ("i2", -300, 900), ("u4", 2**32 - 900, 2**32)])
def test_values_are_looked_up_as_they_are_computed(
    kind: str, low: int, high: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(low, high, (60, 50)).astype(kind)
    values[0, 0] = low - 7 if low else 0
    asked: list[Any] = []

    def grey(x: Any) -> Any:
        asked.append(x)
        rest = x[x != values[0, 0]]  # as padding is left out
        return ((x.astype(np.float64) - rest.min()) / (rest.max() - rest.min())).astype(np.float32)

    found = dicom._by_value(values, grey)
    np.testing.assert_array_equal(asked[0], np.unique(values))
    np.testing.assert_array_equal(found, grey(values))
    monkeypatch.setattr(dicom, "MOST_LEVELS", 10)
    np.testing.assert_array_equal(dicom._by_value(values, grey), found)
    assert asked[-1] is values


def test_eight_bits_stay_as_they_are_and_padding_does_not_count(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a.dcm", pixels, bits=8)), pixels)
    padded = RAMP.copy()
    padded[0] = 4095
    got = read_dicom(write(tmp_path / "b.dcm", padded, PixelPaddingValue=4095))
    np.testing.assert_allclose(got[1:], spread(RAMP[1:], 640, 3760), atol=1e-3)


def test_colour(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    path = write(tmp_path / "a.dcm", pixels, bits=8, photometric="RGB")
    np.testing.assert_array_equal(read_dicom(path), pixels)
    assert read_dicom_header(path) == Header(5, 4, False)
    np.testing.assert_array_equal(decode_image(path, (3, 5, 4)), pixels.transpose(2, 0, 1))
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(decode_image(path, (1, 5, 4))[0], grey)
    assert read_dicom(sample("examples_palette.dcm")).shape[2] == 3


# --- compressed files ---------------------------------------------------------------------------------------


def test_lossless_syntaxes_give_the_uncompressed_pixels() -> None:
    plain = read_dicom(sample("MR_small.dcm"))
    assert plain.std() > 1
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"):
        np.testing.assert_array_equal(read_dicom(sample(name)), plain, err_msg=name)


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle.dcm"])
def test_other_compressed_files_are_read(name: str) -> None:
    values = read_dicom(sample(name))
    header = read_dicom_header(sample(name))
    assert values.shape[:2] == (header.height, header.width)
    assert values.std() > 1


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels import get_decoder

    path = sample("MR_small_jpeg_ls_lossless.dcm")
    monkeypatch.setattr(get_decoder(pydicom.dcmread(path).file_meta.TransferSyntaxUID), "_available", {})
    with pytest.raises(
        DataError, match=r"compressed as JPEG-LS Lossless.*pip install python-gdcm, or all of them with"
    ):
        read_dicom(path)
    # It stops the reading of a training set, which would lose every file like it, but not of images to predict.
    with pytest.raises(DataError, match="pip install python-gdcm"):
        decode_once(path.parent, [path.name, "MR_small.dcm"], (1, 8, 8))
    x, ((file, reason),) = read_images([path, sample("MR_small.dcm")], (1, 8, 8))
    assert (len(x), file) == (1, path)
    assert reason.startswith("it is compressed as JPEG-LS Lossless")
    assert "pip install python-gdcm" in reason


@pytest.mark.skipif(find_spec("libjpeg") is not None, reason="the decoder of this file is installed")
def test_a_decoder_for_more_bits_is_named() -> None:
    with pytest.raises(DataError, match="of 12 bits: pip install pylibjpeg pylibjpeg-libjpeg decodes it"):
        read_dicom(sample("JPGExtended.dcm"))


def test_missing_pydicom_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(tmp_path / "images" / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"a\.dcm is a DICOM file: pip install pydicom reads it"):
        load_folder(path.parent, table(tmp_path, "file,A\na.dcm,1\n"))
    with pytest.raises(DataError, match="install pydicom"):
        decode_image(path, (1, 8, 8))


# --- folders ------------------------------------------------------------------------------------------------


def test_dicom_files_are_found_with_and_without_an_ending(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.DICOM", "IM0001", "1.2.840.77"):
        write(tmp_path / name)
    for name in ("notes", "README.md", "DICOMDIR"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "table.dat").write_bytes((tmp_path / "IM0001").read_bytes())
    assert find_images(tmp_path) == ["1.2.840.77", "IM0001", "a.dcm", "b.DICOM"]
    assert not is_dicom(tmp_path / "gone")
    assert not is_dicom(tmp_path / "table.dat")


def test_a_folder_of_dicom_files_beside_others(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write(folder / "a.dcm", WindowCenter=1000, WindowWidth=500)
    paint(folder / "b.png", size=(6, 8))
    (folder / "c.dcm").write_text("no DICOM")
    write(folder / "d.dcm", NumberOfFrames=2, pixels=np.concatenate([RAMP, RAMP])[:, :8], Rows=6)
    report = tmp_path / "skipped.csv"
    data = load_folder(folder, table(tmp_path, "file,A\na.dcm,1\nb.png,0\nc.dcm,1\nd.dcm,1\n"), skipped=report)
    assert data.x.shape == (2, 1, 6, 8)
    assert yes(data) == [[1], [0]]
    np.testing.assert_allclose(data.x[0, 0], np.rint(read_dicom(folder / "a.dcm")), atol=0.5)
    reasons = {entry["file"]: entry["reason"] for entry in rows_of(report)}
    assert reasons["d.dcm"] == "the DICOM file holds 2 frames, and not one image"
    assert "DICM" in reasons["c.dcm"] or "DICOM" in reasons["c.dcm"]


def test_files_without_a_header_are_read(tmp_path: Path) -> None:
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    whole = write(tmp_path / "whole.dcm")
    for name, syntax in (("explicit", ExplicitVRLittleEndian), ("implicit", ImplicitVRLittleEndian)):
        data = pydicom.dcmread(whole)
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.save_as(tmp_path / f"{name}.dcm", implicit_vr=syntax is ImplicitVRLittleEndian, little_endian=True)
        stored = (tmp_path / f"{name}.dcm").read_bytes()
        (tmp_path / f"{name}.dcm").write_bytes(stored[132:] if stored[128:132] == b"DICM" else stored)
        assert read_dicom_header(tmp_path / f"{name}.dcm") == read_dicom_header(whole)
        np.testing.assert_array_equal(read_dicom(tmp_path / f"{name}.dcm"), read_dicom(whole))
    # What lacks the 128 bytes alone still says how it is compressed.
    (tmp_path / "short.dcm").write_bytes(sample("JPEG2000.dcm").read_bytes()[132:])
    assert pydicom.dcmread(sample("JPEG2000.dcm")).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_dicom(tmp_path / "short.dcm"), read_dicom(sample("JPEG2000.dcm")))
    (tmp_path / "no.dcm").write_bytes(b"nothing of the kind " * 20)
    with pytest.raises(Exception, match="DICM"):
        read_dicom(tmp_path / "no.dcm")


def test_the_commands_from_a_table_of_dicom_files_to_an_explanation(tmp_path: Path, capsys: Capture) -> None:
    rng, lines = np.random.default_rng(0), ["file,patient,Edema"]
    for i in range(24):
        pixels = (rng.integers(0, 2000, (16, 16)) + 2000 * (i % 2)).astype(np.uint16)
        write(tmp_path / "scans" / f"{i}.dcm", pixels, photometric="MONOCHROME1" if i % 3 else "MONOCHROME2")
        lines.append(f"{i}.dcm,p{i // 2},{i % 2 if i < 16 else ''}")
    labels, run = table(tmp_path / "scans", "\n".join(lines) + "\n", "scans.csv"), tmp_path / "run"
    taut("plan", labels, "--group", "patient")
    assert "24 inputs of 1x16x16 image" in capsys.readouterr().out
    taut("train", labels, "--group", "patient", "--split-fractions", "0.5,0.2,0.3", *FLAGS, "--out", run, "--quiet")
    taut("evaluate", run, "--resamples", 0)
    assert (run / "evaluation.json").is_file()
    taut("predict", run, tmp_path / "scans", "--out", tmp_path / "p.csv")
    assert len(rows_of(tmp_path / "p.csv")) == 24
    taut("explain", run, tmp_path / "scans" / "3.dcm", "--label", "Edema", "--out", tmp_path / "why.png")
    assert (tmp_path / "why.png").stat().st_size > 1000


def test_what_holds_no_image_is_told() -> None:
    ((_, reason),) = read_images([sample("rtplan.dcm")], (1, 8, 8))[1]
    assert reason == "the DICOM file holds no image"


@needs("dicom")
def test_real_radiographs() -> None:
    one, two = (
        PACKS / "dicom" / name
        for name in ("Fake_MONOHR1.dcm", "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm")
    )
    assert pydicom.dcmread(one).PhotometricInterpretation == "MONOCHROME1"
    first, second = read_dicom(one), read_dicom(two)
    assert first.shape == second.shape
    # The one is the other with the interpretation changed.
    np.testing.assert_allclose(first, 255 - second, atol=1e-3)
    x, unread = read_images([one, two], (1, 64, 64))
    assert unread == []
    assert x.std() > 20
