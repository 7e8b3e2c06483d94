"""What is done of decoding outlives an interruption; the digests of large files are kept."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import taut
from image_files import decoded_by, images
from taut.data import DataError, cache, file_index, partial
from taut.data.cache import Header
from taut.data.partial import Partial, Rows, partials, recover

SHAPE = (1, 8, 8)
FILES = [f"{i}.png" for i in range(9)]
STOPPED = "decoding goes on after the first 5 images when the same command is given again"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The cache folder, in which every list of images is kept; files are decoded in blocks of two."""
    for name in ("CACHE_BYTES", "MAP_BYTES"):
        monkeypatch.setattr(cache, name, 0)
    monkeypatch.setattr(cache, "BLOCK", 2)
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """Images, of which one cannot be read."""
    place = images(tmp_path, *FILES, size=(8, 8))
    (place / "2.png").write_bytes(b"no image")
    return place


def stop_at(monkeypatch, name, error):
    """Decode nothing from a file on."""
    decode = cache.decode_image

    def stops(path, *how):
        if path.name >= name:
            raise error
        return decode(path, *how)

    monkeypatch.setattr(cache, "decode_image", stops)


def endings(root):
    return sorted(path.suffix for path in root.iterdir())


def interrupt(monkeypatch, folder, files=FILES, error=None, name="5.png"):
    error = error or KeyboardInterrupt()
    with monkeypatch.context() as patch:
        stop_at(patch, name, error)
        with pytest.raises(type(error)) as caught:
            cache.decode_once(folder, files, SHAPE)
    return caught.value


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), DataError("install a decoder")])
def test_decoding_goes_on_where_it_stopped(folder, root, monkeypatch, error):
    assert interrupt(monkeypatch, folder, error=error).__notes__ == [STOPPED]
    assert endings(root) == [".json", ".npy"]
    # What is missing is all that must have room.
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 4 * 64))
    names, (found, failures) = decoded_by(monkeypatch, lambda: cache.decode_once(folder, FILES, SHAPE))
    assert names == ["2.png", "5.png", "6.png", "7.png", "8.png"]
    assert list(failures) == [2]
    want, _ = cache.read_images([folder / file for file in FILES], SHAPE)
    np.testing.assert_array_equal(found, want)
    assert endings(root) == [".json", ".npy"]


def test_an_interruption_can_be_followed_by_another(folder, root, monkeypatch):
    interrupt(monkeypatch, folder)
    interrupt(monkeypatch, folder, name="7.png")
    assert endings(root) == [".json", ".npy"]
    names, (found, _) = decoded_by(monkeypatch, lambda: cache.decode_once(folder, FILES, SHAPE))
    assert names == ["2.png", "7.png", "8.png"]
    np.testing.assert_array_equal(found, cache.read_images([folder / file for file in FILES], SHAPE)[0])


def test_what_could_not_be_read_before_an_interruption_is_tried_again(folder, root, monkeypatch):
    # As if the drive had been away, its files are the same afterwards.
    monkeypatch.setattr(cache, "stamp_of", lambda place, file: (file, 1, 1))
    monkeypatch.setattr("taut.data.kept.stamp_of", cache.stamp_of)
    interrupt(monkeypatch, folder)
    shutil.copy(folder / "1.png", folder / "2.png")
    names, (found, failures) = decoded_by(monkeypatch, lambda: cache.decode_once(folder, FILES, SHAPE))
    assert set(names) == {"2.png", "5.png", "6.png", "7.png", "8.png"}
    assert failures == {}
    np.testing.assert_array_equal(found, cache.read_images([folder / file for file in FILES], SHAPE)[0])


def test_other_lists_take_over_what_an_interrupted_one_has(folder, root, monkeypatch):
    interrupt(monkeypatch, folder)
    reversed_files = FILES[::-1]
    names, (found, _) = decoded_by(monkeypatch, lambda: cache.decode_once(folder, reversed_files, SHAPE))
    assert names == ["2.png", "5.png", "6.png", "7.png", "8.png"]
    np.testing.assert_array_equal(found, cache.read_images([folder / file for file in reversed_files], SHAPE)[0])
    assert endings(root) == [".json", ".npy"]


def test_the_command_says_that_decoding_goes_on(folder, root, tmp_path, monkeypatch, capsys):
    stop_at(monkeypatch, "5.png", KeyboardInterrupt())
    with pytest.raises(SystemExit) as caught:
        taut("train", folder, "--classes", 2, "--image-size", 8, "--out", tmp_path / "run")
    assert caught.value.code == 130
    # The file that is none was left out before.
    sentence = STOPPED.replace("5", "4")
    assert capsys.readouterr().err.splitlines()[-1] == f"taut: interrupted; {sentence}"


def test_what_a_killed_process_noted_is_gone_on_with(folder, root, monkeypatch):
    dead = ended_process()
    with monkeypatch.context() as patch:
        patch.setattr(partial, "CHECKPOINT_SECONDS", -1.0)
        patch.setattr(partial.os, "getpid", lambda: dead)
        patch.setattr(Rows, "__exit__", lambda *_: None)
        interrupt(monkeypatch, folder)
    assert endings(root) == [".json", ".tmp"]
    names, (found, _) = decoded_by(monkeypatch, lambda: cache.decode_once(folder, FILES, SHAPE))
    assert names == ["2.png", "5.png", "6.png", "7.png", "8.png"]
    np.testing.assert_array_equal(found, cache.read_images([folder / file for file in FILES], SHAPE)[0])
    assert endings(root) == [".json", ".npy"]


def ended_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_only_the_temporary_files_of_dead_processes_are_removed(tmp_path):
    here = socket.gethostname()

    def temporary(process, host=here, days=0.0):
        path = tmp_path / f"images-a-b.{host}-{process}-0a1b.tmp"
        path.write_bytes(b"rows")
        os.utime(path, (time.time() - days * 86400,) * 2)
        return path

    dead = ended_process()
    stay = [temporary(os.getpid()), temporary(dead, "elsewhere", 0.9), temporary(1)]
    old = tmp_path / "images-a-b.0123456789abcdef.tmp"  # of a former version
    gone = [temporary(dead), temporary(7, "elsewhere", 1.1), old]
    old.write_bytes(b"rows")
    os.utime(old, (0, 0))
    other = tmp_path / "thesis.tmp"  # of somebody else
    other.write_bytes(b"text")
    os.utime(other, (0, 0))
    recover(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*stay, other])
    assert not any(path.exists() for path in gone)


def test_of_two_processes_one_goes_on_with_what_is_there(tmp_path):
    array = tmp_path / "a.npy"

    def stopped():
        with Rows(array, (4, 1), np.uint8, "work") as rows:
            rows.out[0] = 7
            rows.tell(1)
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    (left,) = partials(array)
    with Rows(array, (4, 1), np.uint8, "work", left) as first, Rows(array, (4, 1), np.uint8, "work", left) as second:
        assert (first.done, second.done) == (1, 0)
        assert first.out[0] == 7
        second.out[:] = 1
        first.out[1:] = 1
    assert np.load(array)[:, 0].tolist() == [7, 1, 1, 1]
    assert list(tmp_path.iterdir()) == [array]


def test_what_is_there_but_not_noted_is_no_partial(tmp_path):
    np.save(tmp_path / "a.host-1-0.npy", np.zeros(3))
    assert partials(tmp_path / "a.npy") == []
    Partial(tmp_path / "a.host-1-0.npy", {"done": 1}).remove()  # whose note another process has deleted


# --- copies -------------------------------------------------------------------------------------------------


def copied(tmp_path):
    ending = b"z" * 5 * cache.SAMPLE_BYTES
    paths = [tmp_path / str(i) for i in range(4)]
    for path, head in zip(paths, (b"one", b"two", b"one", b"four"), strict=True):
        path.write_bytes(head + ending)
    return paths


def test_copies_are_found_beyond_the_same_ending(tmp_path, monkeypatch):
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))
    assert cache.find_copies(copied(tmp_path)).tolist() == [0, 1, 0, 3]
    assert not (tmp_path / "cache").exists()
    assert cache.find_copies([]).tolist() == []


def test_large_files_are_compared_once(tmp_path, root, monkeypatch):
    monkeypatch.setattr(file_index, "LARGE", 1)
    paths = copied(tmp_path)
    assert cache.find_copies(paths).tolist() == [0, 1, 0, 3]
    opened, opens = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how, **more: (opened.append(path), opens(path, *how, **more))[1])
    assert cache.find_copies(paths).tolist() == [0, 1, 0, 3]
    assert not set(opened) & set(paths)
    paths[0].write_bytes(paths[1].read_bytes())
    opened.clear()
    assert cache.find_copies(paths).tolist() == [0, 0, 2, 3]
    assert set(opened) & set(paths) == {paths[0]}


def test_a_file_that_is_gone_is_no_copy(tmp_path, root):
    paths = copied(tmp_path)
    paths[0].unlink()
    assert cache.find_copies([*paths, tmp_path / "neither"]).tolist() == [0, 1, 2, 3, 4]


def test_files_that_differ_in_the_middle_alone_are_not_read_as_a_whole(tmp_path, root):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, middle in zip(paths, (b"a", b"b"), strict=True):
        path.write_bytes(b"z" * 5 * cache.SAMPLE_BYTES + middle + b"z" * 5 * cache.SAMPLE_BYTES)
    with file_index.FileIndex(root, paths) as index:
        assert index.digest(paths[0], cache.SAMPLE_BYTES) != index.digest(paths[1], cache.SAMPLE_BYTES)
        assert index.read == 4 * cache.SAMPLE_BYTES


# --- headers ------------------------------------------------------------------------------------------------


def test_headers_of_many_files_are_read_once(tmp_path, root, monkeypatch):
    monkeypatch.setattr(file_index, "MANY", 2)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("L", (4 + i, 6)).save(path)
    paths[2].write_bytes(b"damaged")
    headers = cache.read_headers(paths)
    assert headers == [Header(6, 4, True, False), Header(6, 5, True, False), "it is not an image that Pillow knows"]
    looked, look = [], cache._header
    monkeypatch.setattr(cache, "_header", lambda path: (looked.append(path), look(path))[1])
    assert cache.read_headers(paths) == headers
    assert looked == [paths[2]]  # which may be whole by now
    Image.new("RGB", (9, 9)).save(paths[0])
    assert cache.read_headers(paths)[:2] == [Header(9, 9, False, False), headers[1]]


def test_headers_that_were_read_before_an_interruption_are_kept(tmp_path, root, monkeypatch):
    monkeypatch.setattr(file_index, "MANY", 1)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.new("L", (4, 6)).save(path)
    look = cache._header

    def interrupted(path):
        if path == paths[2]:
            raise KeyboardInterrupt
        return look(path)

    monkeypatch.setattr(cache, "_header", interrupted)
    monkeypatch.setattr(cache, "workers", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        cache.read_headers(paths)
    monkeypatch.setattr(cache, "_header", lambda path: pytest.fail("read again"))
    assert cache.read_headers(paths[:2]) == [Header(6, 4, True, False)] * 2
