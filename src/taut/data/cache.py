"""Image files to uint8 arrays: headers first, each decoded once, all but small sets kept on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from tqdm import tqdm

from taut.data.dataset import DataError
from taut.data.dicom import Header, is_dicom, read_dicom, read_dicom_header
from taut.data.file_index import FileIndex
from taut.data.kept import Kept, Known, failures_in, stamp_of, store
from taut.data.partial import partials, recover

Shape = tuple[int, int, int]
Result = TypeVar("Result")

MOST_WORKERS = 32  # threads, each of which holds an image of its file's full size
BLOCK = 512  # files in flight at once, so that decoded images do not pile up before they are stored
CACHE_BYTES = 2**25  # arrays above this size are kept in the cache
MAP_BYTES = 2**30  # of these, arrays above this size are memory maps and not read into memory
SAMPLE_BYTES = 4096  # of a file's middle and of its end
HEADER = "header 1"  # raise the number when what is read of headers changes
NOTHING: Known = {}
BYTE, DEEP = 255.0, 65535.0  # the greatest values of 8 and of 16 bits
DIM = 32  # of 255, below which the upper 8 of 16 bits are too few
DEEP_SAMPLE = 200  # images whose greatest value is looked at
STRAY = 8  # times as bright as the others: not of their scale
HOT_SHARE, MANY = 1e-5, 10_000  # share of the pixels of an image that may be hot, and of how many one may
PAGES = {"TIFF": "pages", "GIF": "frames", "PNG": "frames", "WEBP": "frames"}
SUBFILE, REDUCED = 254, 1  # the TIFF tag for what a page is, and its bit for a smaller version of another page
GREY_MODES = ("1", "L", "LA", "La", "I", "F")


def cache_root() -> Path:
    """The folder for decoded images: $TAUT_CACHE, or ~/.cache/taut."""
    return Path(os.environ.get("TAUT_CACHE") or Path.home() / ".cache" / "taut")


def read_headers(paths: Sequence[Path], stop: bool = True) -> list[Header | str]:
    """The header of every file, [N], or the reason why it cannot be read; those of many files are kept in the cache.

    stop: whether a missing package ends it (DataError).
    """
    with FileIndex(cache_root(), paths) as index:

        def header(path: Path) -> Header:
            return Header(*index.ask(path, HEADER, lambda _: astuple(_header(path))))

        return list(_each(header, paths, "looking at images", stop))


def decode_image(file: Path | BinaryIO, shape: Shape, white: float = DEEP) -> NDArray[np.uint8]:
    """One image as uint8 [C, H, W], turned as its EXIF data says and resized (bilinear, antialiased).

    What is transparent in part of an image is on white; 16-bit values 0 … white become 0 … 255, C = 1 takes the
    luminance. The aspect changes where the shape's differs: cropping could cut off what an image was annotated for.
    A DICOM file is read as `read_dicom` says. Raises whatever Pillow raises, ValueError for 32-bit pixels, which have
    no agreed range, for dim colours of 16 bits, and for several images in one file, and DataError where a package for
    DICOM is missing.
    """
    channels, height, width = shape
    if isinstance(file, Path) and is_dicom(file):
        return _decode_dicom(file, shape)
    with Image.open(file) as image:
        _check_single(image)
        # JPEG decodes at 1/2, 1/4 or 1/8 for less work; twice the final size keeps the resizing smooth.
        image.draft(None, (2 * width, 2 * height))
        # Of colours of 16 bits Pillow keeps the upper 8.
        halved = not _is_deep(image) and any(";16" in str(tile) for tile in image.tile)
        if _orientation(image) > 1:
            image.info.pop("exif", None)  # read by now, and not to be written anew, which damaged tags may not allow
            ImageOps.exif_transpose(image, in_place=True)
        if _is_deep(image):
            pixels = _resized(np.asarray(image, dtype=np.float32) * np.float32(255 / white), height, width)
        elif image.mode in ("I", "F"):
            raise ValueError("32-bit pixels have no agreed range: save it with 8 or 16 bits")
        else:
            flat = _opaque(image).convert("L" if channels == 1 else "RGB")
            if halved and 0 < np.asarray(flat).max() < DIM:
                raise ValueError(
                    "it has 16 bits a channel and uses few of them: save it with 8, as bright as they allow"
                )
            pixels = np.asarray(flat.resize((width, height), Image.Resampling.BILINEAR))
    if pixels.ndim == 3:
        pixels = pixels.transpose(2, 0, 1)
    return np.broadcast_to(pixels, shape)


def _opaque(image: Image.Image) -> Image.Image:
    """An image without alpha: on white where that varies, as below a transparent ground there is often black.

    What is white itself is on black; an image that is as transparent everywhere is taken as opaque.
    """
    if "transparency" not in image.info and image.mode not in ("LA", "PA", "RGBA"):
        return image
    colours = image.convert("RGBA")
    low, high = colours.getchannel("A").getextrema()
    if low == high:
        return colours
    shown = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    pixels = np.asarray(shown)
    if (pixels == pixels[0, 0]).all():
        return Image.alpha_composite(Image.new("RGBA", colours.size, "black"), colours)
    return shown


def _resized(grey: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """Grey values 0 … 255 of more than 8 bits [h, w], resized before they are rounded."""
    resized = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
    rounded: NDArray[np.uint8] = np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)
    return rounded


def _decode_dicom(file: Path, shape: Shape) -> NDArray[np.uint8]:
    channels, height, width = shape
    values = read_dicom(file)
    if values.ndim == 2:
        return np.broadcast_to(_resized(values, height, width), shape)
    pixels = np.stack([_resized(np.ascontiguousarray(values[..., c]), height, width) for c in range(3)])
    if channels == 3:
        return pixels
    return np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L"))[None]


def deep_white(paths: Sequence[Path]) -> float:
    """What is white in images of 16 bits a pixel: the greatest value of the least number of bits, 9 to 16, that holds a
    sample of them, but for the brightest pixel in 100,000 of each (one of 10,000 or more), which may be hot, and for
    the brightest one of twenty files, where it is 8 times as bright as all others: a speck that saturates in one image
    must not make all others black. Files that cannot be read do not count.
    """

    def brightest(path: Path) -> int:
        with Image.open(path) as image:
            pixels = np.asarray(image).ravel()
        place = len(pixels) - 1 - max(int(len(pixels) >= MANY), round(HOT_SHARE * len(pixels)))
        return int(np.partition(pixels, place)[place])

    sample = paths[:: max(1, len(paths) // DEEP_SAMPLE)]
    found = _each(brightest, sample, "looking at 16-bit images", stop=False)
    values = sorted(value for value in found if isinstance(value, int))
    most = values[-1] if values else DEEP
    usual = values[len(values) - 1 - len(values) // 20] if values else DEEP
    most = usual if 0 < STRAY * usual <= most else most
    return next(2.0**bits - 1 for bits in range(9, 17) if most < 2**bits)


def scale_of(white: float | None, paths: Sequence[Path], headers: Sequence[Header | str] | None = None) -> float:
    """What is white in the images of 16 bits a pixel among some files where `white` is in the training images.

    The same where that is more than a byte; else what the files' own bits tell.  headers: theirs, where they are read.
    """
    if white is not None and white > BYTE:
        return white
    headers = read_headers(paths, stop=False) if headers is None else headers
    return deep_white(
        [path for path, head in zip(paths, headers, strict=True) if isinstance(head, Header) and head.deep]
    )


def read_images(
    paths: Sequence[Path], shape: Shape, white: float = DEEP
) -> tuple[NDArray[np.uint8], list[tuple[Path, str]]]:
    """The images that can be read, uint8 [N, C, H, W] in order, and (path, reason) of the others.

    white: of images of 16 bits.  Files that need a package that is missing are among the others.
    """
    out = np.empty((len(paths), *shape), dtype=np.uint8)
    failures = _fill(out, paths, shape, white, stop=False)
    return out[: len(paths) - len(failures)], [(paths[i], reason) for i, reason in failures.items()]


def writers() -> int:
    """Processes of this machine that train together (torchrun), each of which fills a file of its own."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def decode_once(
    folder: Path, files: Sequence[str], shape: Shape, white: float = DEEP
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """The images that can be read, uint8 [N, C, H, W] in order, and the reasons by position of the others.

    white: of images of 16 bits.
    Above CACHE_BYTES the array is kept in the cache folder, and used again as long as no file has another size or
    modification time; above MAP_BYTES it is a memory map. Of another list of the folder's files only those are decoded
    that are in no array yet, and those that could not be read are tried again. Decoding that was interrupted goes on
    where it stopped. Raises DataError where the disk has no room.
    """
    paths = [folder / file for file in files]
    size = len(files) * int(np.prod(shape))
    if size <= CACHE_BYTES:
        return _in_memory(paths, shape, white)
    root = cache_root()
    stamps = [stamp_of(folder, file) or (file, 0, 0) for file in files]
    kept = Kept.of(root, folder, stamps, shape, white)
    if not kept.is_there() or _can_be_read_now(paths, kept.failures(), shape, white):
        recover(root)
        begun = partials(kept.array)
        partial = next((p for p in begun if not _can_be_read_now(paths, failures_in(p.report), shape, white)), None)
        missing = size if partial is None else size - size * partial.done // len(files)
        # Writing to a map on a full disk kills the process without a message.
        if _room(root) < missing * writers():
            if size <= MAP_BYTES:
                return _in_memory(paths, shape, white)
            raise DataError(
                f"{folder}: the decoded images take {size / 2**30:.1f} GiB, more than is free in {root}: "
                "set TAUT_CACHE to a folder with more room, or choose a smaller --image-size"
            )
        known = kept.known(stamps)
        kept.write(shape, stamps, lambda start: _decoded(paths, shape, white, known=known, start=start), partial)
        kept.remove_others()
    try:
        failures, images = kept.failures(), kept.images(mapped=size > MAP_BYTES)
    except FileNotFoundError:  # another process has just put a longer list in its place
        return decode_once(folder, files, shape, white)
    return images[: len(files) - len(failures)], failures


def _can_be_read_now(paths: Sequence[Path], failures: Collection[int], shape: Shape, white: float) -> bool:
    """Whether a file that could not be read, as on a drive that was away for a moment, can be by now."""
    return any(not isinstance(found, str) for found in _decoded([paths[i] for i in failures], shape, white))


def _in_memory(paths: Sequence[Path], shape: Shape, white: float) -> tuple[NDArray[np.uint8], dict[int, str]]:
    out = np.empty((len(paths), *shape), dtype=np.uint8)
    failures = _fill(out, paths, shape, white)
    return out[: len(paths) - len(failures)], failures


def _room(folder: Path) -> int:
    """The bytes that can be written to a folder, which is made where it is not there: 0 where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return 0
    return shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0


def find_copies(paths: Sequence[Path]) -> NDArray[np.intp]:
    """For every file the position of the first file with the same bytes, [N]: its own where it is the first.

    Only files of the same size and some of the same bytes are read as a whole, and none twice where that is much to
    read. A file that cannot be read is like no other.
    """
    first, groups = np.arange(len(paths)), [list(range(len(paths)))]
    with FileIndex(cache_root(), paths) as index:
        for key in (_size, lambda path: index.digest(path, SAMPLE_BYTES), index.digest):
            groups = [alike for group in _keyed(paths, groups, key) for alike in group.values() if len(alike) > 1]
    for same in groups:
        first[same] = same[0]
    return first


def _keyed(
    paths: Sequence[Path], groups: Sequence[list[int]], key: Callable[[Path], int | str]
) -> Iterator[dict[object, list[int]]]:
    """For each group of positions those with the same key, by key."""
    found = _each(lambda path: (key(path),), [paths[i] for group in groups for i in group], "looking for copies")
    for group in groups:
        members: dict[object, list[int]] = {}
        for position in group:
            value = next(found)
            members.setdefault(position if isinstance(value, str) else value, []).append(position)
        yield members
    next(found, None)  # which ends its threads


def _size(path: Path) -> int:
    return path.stat().st_size


def _fill(
    out: NDArray[np.uint8], paths: Sequence[Path], shape: Shape, white: float, stop: bool = True
) -> dict[int, str]:
    """Decode files into the first rows of out without gaps; the reasons by position of those that failed."""
    failures: dict[int, str] = {}
    for _ in store(_decoded(paths, shape, white, stop), out, failures):
        pass
    return failures


def _decoded(
    paths: Sequence[Path], shape: Shape, white: float, stop: bool = True, known: Known = NOTHING, start: int = 0
) -> Iterator[NDArray[np.uint8] | str]:
    """The images of files from a position on, or the reasons why they cannot be read.

    known: what is decoded already.  DataError for other than one channel or three, which no file has.
    """
    if shape[0] not in (1, 3):
        raise DataError(f"image files have 1 or 3 channels, but the model takes {shape[0]}: pass arrays in a .npz file")
    positions = range(start, len(paths))
    others = [paths[i] for i in positions if i not in known]
    fresh = _each(lambda path: decode_image(path, shape, white), others, "decoding images", stop)
    for i in positions:
        yield known[i][0][known[i][1]] if i in known else next(fresh)
    next(fresh, None)  # which ends its threads


def _each(
    function: Callable[[Path], Result], paths: Sequence[Path], title: str, stop: bool = True
) -> Iterator[Result | str]:
    """The function of every file in order, from a few threads, or the reason why it failed.

    stop: whether a missing package ends it (DataError): a training set would lose all files like that one.
    """

    def attempt(path: Path) -> Result | str:
        try:
            return function(path)
        except DataError as error:
            if stop:
                raise
            return str(error).replace(f"{path} is", "it is", 1)
        except MemoryError:
            raise  # which says nothing of the file
        except Exception as error:  # a damaged file can raise anything in a decoder; one file must not end the run
            return _reason(error)

    with (
        ThreadPoolExecutor(workers()) as pool,
        tqdm(total=len(paths), desc=title, unit="file", delay=2, disable=None, leave=False) as bar,
    ):
        for start in range(0, len(paths), BLOCK):
            for result in pool.map(attempt, paths[start : start + BLOCK]):
                bar.update()
                yield result


def workers() -> int:
    """How many threads look at images: one for each processor core that this process may use, up to a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def _reason(error: Exception) -> str:
    """The error in words without the file's path, which stands beside it in every report."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _header(path: Path) -> Header:
    if is_dicom(path):
        return read_dicom_header(path)
    with Image.open(path) as image:
        _check_single(image)
        width, height = image.size
        # Asking a PNG for EXIF data that is not in its head would decode the whole file.
        if "exif" in image.info and _orientation(image) >= 5:
            width, height = height, width
        return Header(height, width, image.mode in GREY_MODES or _is_deep(image), _is_deep(image))


def _orientation(image: Image.Image) -> int:
    """How an opened file says that it is turned, 1 to 8: 1 is upright, as is what has damaged metadata."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow has many, and an image is not lost for them
        return 1


def _check_single(image: Image.Image) -> None:
    """ValueError for an opened file of several images, such as a stack, channels as pages, or an animation.

    Smaller versions of a TIFF file's image are none, nor are the previews that cameras put into JPEG files.
    """
    count = getattr(image, "n_frames", 1) if image.format in PAGES else 1
    if count > 1 and isinstance(image, TiffImageFile):
        for page in range(1, image.n_frames):
            image.seek(page)
            count -= bool(image.tag_v2.get(SUBFILE, 0) & REDUCED)
        image.seek(0)
    if count > 1:
        raise ValueError(f"the file holds {count} {PAGES[str(image.format)]}, and not one image")


def _is_deep(image: Image.Image) -> bool:
    """Whether an opened image has 16 bits a pixel."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
