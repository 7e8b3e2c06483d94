"""DICOM files as grey or RGB values: rescaled, windowed and turned so that more is brighter (extra `dicom`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taut.data.dataset import DataError

SUFFIXES = (".dcm", ".dicom")
PREAMBLE, MAGIC = 128, b"DICM"
MOST_LEVELS = 2**16  # of the values of 16 bits a pixel
DECODERS = {  # what decodes a transfer syntax where nothing that is installed does
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}


@dataclass(frozen=True)
class Header:
    """What the head of an image file says: height and width as displayed [pixels], and whether it is grey.

    deep: whether its pixels have 16 bits, of which nothing says how many are used.
    """

    height: int
    width: int
    grey: bool
    deep: bool = False


def is_dicom(path: Path) -> bool:
    """Whether a file has a DICOM file's ending, or no image's ending and a DICOM file's first bytes."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix and not suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


def read_dicom_header(path: Path) -> Header:
    """The header of a DICOM file; DataError without pydicom, ValueError for what is no single image."""
    data = _read(path, ["Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"])
    _check(data)
    grey = str(data.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    return Header(int(data.Rows), int(data.Columns), grey)


def read_dicom(path: Path) -> NDArray[np.float32]:
    """The image of a DICOM file: [H, W] grey or [H, W, 3] RGB in 0 … 255, as it is meant to be looked at.

    Grey values go through the modality LUT (or slope and intercept) and the file's first VOI LUT or window. Without
    one, 8-bit values stay as they are, and deeper ones are spread from their least to their greatest (padding left
    out). MONOCHROME1, in which more is darker, is inverted. Annotations drawn over the image and the displayed aspect
    are not applied.
    Raises DataError where pydicom, or the decoder of a compressed file, is not installed; ValueError, or what pydicom
    raises, for a file that holds no single image.
    """
    data = _read(path)
    from pydicom import pixels  # after the sentence that tells how to install it

    _check(data)
    if not data.get("VOILUTFunction", "LINEAR"):
        del data.VOILUTFunction  # empty is as good as absent, but not to pydicom
    try:
        values = pixels.pixel_array(data)
    except (RuntimeError, NotImplementedError) as error:
        raise _undecoded(path, data, error) from error
    photometric = str(data.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        values = pixels.apply_color_lut(values, data)
        return _spread(values, 0, 255 if values.dtype == np.uint8 else 65535)
    if values.ndim == 3:
        return _spread(values, 0, 2 ** int(data.BitsStored) - 1)
    grey = _by_value(values, partial(_grey, data=data))
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _by_value(values: NDArray[Any], function: Callable[[NDArray[Any]], NDArray[np.float32]]) -> NDArray[np.float32]:
    """A function of each pixel and of what values there are, asked once for each value: windows take long otherwise."""
    if values.dtype.kind not in "iu" or not values.size:
        return function(values)
    low, high = int(values.min()), int(values.max())
    if high - low >= MOST_LEVELS:
        return function(values)
    place = values.astype(np.int64) - low if low < 0 or high >= MOST_LEVELS else values
    first = low if place is not values else 0
    there = np.zeros(high - first + 1, dtype=bool)
    there[place] = True
    used = np.flatnonzero(there)
    table = np.zeros(len(there), dtype=np.float32)
    table[used] = function((used + first).astype(values.dtype))
    return table[place]


def _grey(values: NDArray[Any], data: Any) -> NDArray[np.float32]:
    """Stored values, of any shape, as grey ones in 0 … 255, before any inversion."""
    from pydicom import pixels

    rescaled = pixels.apply_modality_lut(values, data)
    if data.get("VOILUTSequence"):
        item = data.VOILUTSequence[0]
        described = count, first, bits = list(item.LUTDescriptor)
        item.LUTDescriptor = [count, first, 16]  # pydicom counts a table's places in the type of its entries
        shown = pixels.apply_voi(rescaled.astype(np.int64), data, index=0)
        item.LUTDescriptor = described
        return _spread(shown, 0, 2 ** int(bits) - 1)
    window = _window(data)
    if window is not None:
        center, width = window
        with np.errstate(over="ignore"):  # a sigmoid far from its window
            # Values far outside tell what the window's ends are shown as.
            low, high = pixels.apply_windowing(center + width * np.array([-50.0, 50.0]), data, index=0)
            return _spread(pixels.apply_windowing(rescaled, data, index=0), low, high)
    if int(data.BitsStored) <= 8 and values.dtype.kind == "u" and np.array_equal(values, rescaled):
        return _spread(values, 0, 2 ** int(data.BitsStored) - 1)
    kept = rescaled[values != data.PixelPaddingValue] if data.get("PixelPaddingValue") is not None else rescaled
    kept = kept if kept.size else rescaled
    return _spread(rescaled, float(kept.min()), float(kept.max()))


def _window(data: Any) -> tuple[float, float] | None:
    """Centre and width of a file's first window, None where it has none or one without a width, as some scanners do."""
    if data.get("WindowWidth") is None or data.get("WindowCenter") is None:
        return None
    center, width = (float(np.atleast_1d(data[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    least = 1.0 if data.get("VOILUTFunction", "LINEAR") == "LINEAR" else np.finfo(float).tiny
    return (center, width) if width >= least else None


def _spread(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Values from low … high as 0 … 255; all 0 where they are one. low is above high where a slope is negative."""
    width = high - low or 1.0
    scaled = (values.astype(np.float64) - low) * (255 / width)
    return np.clip(scaled, 0, 255).astype(np.float32)


def _read(path: Path, tags: list[str] | None = None) -> Any:
    """The data set of a file, or some of its elements without the pixels."""
    try:
        import pydicom
    except ImportError as error:
        raise DataError(f"{path} is a DICOM file: pip install pydicom reads it") from error
    # Files of hospitals break small rules all the time; only what is needed for the image is looked at.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    options: dict[str, Any] = {} if tags is None else {"stop_before_pixels": True, "specific_tags": list(tags)}
    try:
        return pydicom.dcmread(path, **options)
    except pydicom.errors.InvalidDicomError as error:
        # Old archives have files without a header, which says how the others are written.
        try:
            data = pydicom.dcmread(path, force=True, **options)
            found = "Rows" in data
        except Exception:  # whatever reading any bytes ends in
            found = False
        if not found:
            raise error
        if "TransferSyntaxUID" not in data.file_meta:
            implicit, little = data.original_encoding
            explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
            data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
        return data


def _check(data: Any) -> None:
    if "Rows" not in data or "Columns" not in data:
        raise ValueError("the DICOM file holds no image")
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"the DICOM file holds {int(data.NumberOfFrames)} frames, and not one image")


def _undecoded(path: Path, data: Any, error: Exception) -> Exception:
    """A DataError that names the missing package, or the error itself where none is missing."""
    from pydicom.pixels import get_decoder

    syntax = data.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        return ValueError(f"its transfer syntax {syntax.name} is not supported by pydicom")
    if available and "12-bit" not in str(error):
        return ValueError(f"its pixels, {syntax.name}, cannot be decoded: {str(error).splitlines()[-1].strip()}")
    if available:
        return DataError(f"{path} is {syntax.name} of 12 bits: pip install pylibjpeg pylibjpeg-libjpeg decodes it")
    return DataError(
        f"{path} is compressed as {syntax.name}, for which no decoder is installed: "
        f"pip install {DECODERS.get(str(syntax), 'python-gdcm')}, or all of them with taut's extra dicom"
    )
