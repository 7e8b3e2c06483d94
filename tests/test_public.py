import pickle
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torchvision

from packs import needs
from taut.data import DataError, load_dataset
from taut.data.public import load_public


@pytest.fixture
def offline(monkeypatch):
    """No packs, and every download fails as it does without a network."""

    def fail(*_args, **_kwargs):
        raise URLError("no route to host")

    monkeypatch.delenv("TAUT_DATA", raising=False)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", fail)
    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, **_: url)


def save_jpegs(path, count):
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (32, 32), (200, 20, 20)).save(buffer, "JPEG")
    data = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    names = np.array([f"class {c}" for c in range(10)])
    np.savez(
        path,
        jpeg=np.tile(data, count),
        offsets=np.arange(count + 1) * len(data),
        y=np.arange(count) % 10,
        class_names=names,
    )


def save_idx(path, array):
    head = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(head + array.tobytes())


def test_mnist_files_put_by_hand(tmp_path, offline):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.arange(4 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28)
    for part, rows in (("train", slice(0, 3)), ("t10k", slice(3, 4))):
        save_idx(raw / f"{part}-images-idx3-ubyte", images[rows])
        save_idx(raw / f"{part}-labels-idx1-ubyte", np.array([5, 0, 9, 1], dtype=np.uint8)[rows])
    data = load_public("mnist", tmp_path)
    np.testing.assert_array_equal(data.x[:, 0], images)
    assert data.annotation.targets.argmax(axis=1).tolist() == [5, 0, 9, 1]
    assert data.split.tolist() == ["train", "train", "train", "test"]
    assert data.space.names == ("digit",)
    assert data.space.labels[0].classes == tuple(range(10))


def test_svhn_files_put_by_hand(tmp_path, offline, monkeypatch):
    parts = {part: ["", f"{part}_32x32.mat", None] for part in ("train", "test")}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", parts)
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)
    for part in parts:
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", {"X": x, "y": np.array([[10], [7]], dtype=np.uint8)})
    data = load_public("svhn", tmp_path)
    assert data.x.shape == (4, 3, 32, 32)
    np.testing.assert_array_equal(data.x[1], x[:, :, :, 1].transpose(2, 0, 1))
    assert data.annotation.targets.argmax(axis=1).tolist() == [0, 7, 0, 7]


def test_cifar10_files_put_by_hand(tmp_path, offline, monkeypatch):
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", None]])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(c) for c in range(10)]}))
    x = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": x, "labels": [3, 8]}))
    data = load_public("cifar10", tmp_path)
    np.testing.assert_array_equal(data.x[:2], x.reshape(2, 3, 32, 32))
    assert data.annotation.targets.argmax(axis=1).tolist() == [3, 8, 3, 8]
    assert data.notes == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mnist",
            r"MNIST could not be downloaded to .*put train-images-idx3.*or the packs mnist_train\.npz",
        ),
        (
            "svhn",
            r"SVHN could not be downloaded to .*no route to host.*put train_32x32\.mat and test_32x32\.mat",
        ),
        ("cifar10", r"CIFAR10 could not be downloaded.*put cifar-10-python\.tar\.gz.*cifar10_test_jpeg\.npz"),
    ],
)
def test_without_a_network(tmp_path, offline, name, message):
    with pytest.raises(DataError, match=message):
        load_public(name, tmp_path)


def test_the_default_folder_comes_from_the_environment(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("TAUT_DATA_CACHE", str(tmp_path / "downloads"))
    with pytest.raises(DataError, match="downloads"):
        load_public("svhn")


def test_packs_are_used_where_they_are(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("TAUT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="could not be downloaded"):
        load_public("cifar10", tmp_path / "root")
    save_jpegs(tmp_path / "cifar10_train_jpeg.npz", 12)
    save_jpegs(tmp_path / "cifar10_test_jpeg.npz", 3)
    data = load_public("cifar10")
    assert data.x.shape == (15, 3, 32, 32)
    assert data.split.tolist() == ["train"] * 12 + ["test"] * 3
    assert data.annotation.targets.argmax(axis=1).tolist() == [*range(10), 0, 1, 0, 1, 2]
    assert "JPEG re-encoded" in data.notes[0]
    with pytest.raises(DataError, match="could not be downloaded"):
        load_public("cifar10", tmp_path / "root")


def test_an_unknown_name():
    with pytest.raises(DataError, match=r"'imagenet' is not a public data set.*mnist, svhn, cifar10"):
        load_public("imagenet")


@needs("mnist_train.npz", "mnist_test.npz")
def test_pack_of_mnist():
    data = load_dataset("mnist")
    assert data.x.shape == (70000, 1, 28, 28)
    assert data.x.dtype == np.uint8
    assert len(data.part("test")) == 10000
    assert data.annotation.targets[:5].argmax(axis=1).tolist() == [5, 0, 4, 1, 9]
    assert data.notes == []
