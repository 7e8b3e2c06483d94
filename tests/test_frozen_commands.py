from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from commands import Capture, refused, taut
from taut.data.stream import Stream
from taut.evaluate.ood import ood_scores
from taut.features import FrozenEncoder
from taut.run import Run
from tiny import FLAGS

HEAD = ("--train.steps", 6, "--model.width", 8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(models.resnet18(weights=None).state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Twelve grey images of 30x24 pixels, and a table for ten of them."""
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (30, 24), dtype=np.uint8)).save(tmp_path / "scans" / f"{i:02}.png")
    lines = [f"{i:02}.png,{i % 2},{'' if i % 3 else i % 2}" for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["file,oedema,mass", *lines]) + "\n")
    return tmp_path / "scans"


def probabilities(path: Path) -> dict[str, list[float]]:
    """oedema and mass by the name of the image's file."""
    with path.open(newline="") as file:
        return {
            Path(row["image"]).name: [float(row[f"{name}:calibrated"]) for name in ("oedema", "mass")]
            for row in csv.DictReader(file)
        }


def read(folder: Path) -> NDArray[np.uint8]:
    """The images of a folder at 48x48 pixels, [N, 1, 48, 48]."""
    images = [Image.open(path).resize((48, 48), Image.Resampling.BILINEAR) for path in sorted(folder.iterdir())]
    return np.stack([np.asarray(image) for image in images])[:, None]


def figures(capsys: Capture, *arguments: Any) -> dict[str, Any]:
    capsys.readouterr()
    taut("evaluate", *arguments, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_folder_through_a_frozen_network(
    scans: Path, weights: Path, tmp_path: Path, cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    flags = ("--labels", tmp_path / "t.csv", "--frozen", "resnet-18", "--weights", weights, "--image-size", 48)
    taut("train", scans, *flags, *HEAD, "--out", run)
    assert "The 512 features of resnet-18 stand in for the images" in capsys.readouterr().out
    assert Run(run).load_model().architecture.shape == (512,)
    assert len(list(cache.glob("features-*.npy"))) == 1
    frozen = FrozenEncoder.load(run)
    assert frozen is not None
    assert frozen.about.shape == (1, 48, 48)
    # What follows needs the run folder alone. Evaluation computes nothing twice, and prediction leaves no files behind.
    weights.unlink()
    computed: list[int] = []
    compute = FrozenEncoder.compute
    monkeypatch.setattr(
        FrozenEncoder, "compute", lambda self, x, *rest: (computed.append(len(x)), compute(self, x, *rest))[1]
    )
    assert figures(capsys, run)["images"] == 12
    assert computed == []
    monkeypatch.setattr("taut.cli.results.AT_ONCE", 5)
    taut("predict", run, scans, "--out", tmp_path / "all.csv")
    assert computed == [5, 5, 2]
    taut("predict", run, scans / "07.png", "--out", tmp_path / "one.csv")
    np.savez(tmp_path / "pack.npz", x=read(scans))
    taut("predict", run, tmp_path / "pack.npz", "--out", tmp_path / "pack.csv")
    assert computed == [5, 5, 2, 1, 12]
    assert len(list(cache.glob("features-*.npy"))) == 1
    everyone, alone = probabilities(tmp_path / "all.csv"), probabilities(tmp_path / "one.csv")
    np.testing.assert_allclose(alone["07.png"], everyone["07.png"], atol=1e-4)
    # Directly: the run's classifier on the run's features.
    model = Run(run).load_model()
    with torch.no_grad():
        logits = model.encode(model.prepare(torch.from_numpy(compute(frozen, read(scans)[7:8])))).logits
        want = model.log_probabilities(logits).exp()[0, 1::2]
    np.testing.assert_allclose(alone["07.png"], want, atol=1e-4)
    with (tmp_path / "all.csv").open(newline="") as file:
        scores = [float(row["ood:score"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(scores, ood_scores(model, compute(frozen, read(scans))), rtol=1e-3)
    out = tmp_path / "why.png"
    why = ("explain", run, scans / "07.png", "--label", "mass", "--out", out)
    said = refused(capsys, *why)
    assert f"the decoder of {run} draws features of resnet-18 and no images, so it has no counterfactual" in said
    assert not out.exists()
    pytest.importorskip("captum")
    taut(*why, "--attribution", "occlusion")
    said = capsys.readouterr().out
    assert float(said.partition("before")[0].rpartition("(")[2]) == pytest.approx(alone["07.png"][1], abs=1e-3)
    assert "no counterfactual" in said
    with Image.open(out) as picture:
        assert picture.size[0] == 2 * 300
    taut("explain", run, tmp_path / "pack.npz", *why[3:], "--row", 7, "--attribution", "occlusion")
    assert capsys.readouterr().out == said


def test_a_run_is_a_frozen_encoder_for_another_one(scans: Path, tmp_path: Path, capsys: Capture) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    taut("train", "digits", "--labels-per-class", 5, *FLAGS, "--out", first, "--quiet")
    # The images are brought to the 8x8 pixels that the run takes.
    taut("train", scans, "--labels", tmp_path / "t.csv", "--frozen", first, *HEAD, "--out", second)
    assert Run(second).load_model().architecture.shape == (32,)
    assert "pixel for pixel" not in capsys.readouterr().out
    assert figures(capsys, second)["images"] == 12
    taut("train", "digits", "--frozen", first, "--labels-per-class", 2, *HEAD, "--out", tmp_path / "third")
    said = capsys.readouterr().out
    assert "test part of digits, 596 images" in said
    assert f"--frozen {first}: 1201 of these 1797 images are, pixel for pixel, ones that the run was trained" in said
    assert figures(capsys, tmp_path / "third")["images"] == 596
    assert "feature vectors, not images" in refused(
        capsys, "train", "digits", "--frozen", second, "--out", tmp_path / "x"
    )


def test_an_interrupted_run_goes_on_with_its_own_encoder(
    scans: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    flags = ("--labels", tmp_path / "t.csv", "--frozen", "resnet-18", "--weights", weights, "--image-size", 32)
    stop = monkeypatch.context()
    with stop as patched:
        patched.setattr("taut.fit.train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit):
            taut("train", scans, *flags, *HEAD, "--out", run)
    weights.unlink()
    taut("train", scans, *flags, "--out", run, "--resume", "--quiet")
    assert Run(run).load_model().architecture.shape == (512,)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--weights", "w.safetensors"), "--weights is for --frozen"),
        (("--frozen", "resnet-18"), "needs its weights in a local file"),
        (("--frozen", "resnet-18", "--weights", "nowhere.pt"), "nowhere.pt: there are no such weights"),
        (("--frozen", "resnet-19", "--weights", "w.safetensors"), "'resnet-19' is not one of"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    flags: tuple[str, ...], sentence: str, scans: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ("train", scans, "--labels", tmp_path / "t.csv", "--image-size", 32, "--out", tmp_path / "run")
    assert sentence in refused(capsys, *arguments, *flags)
    assert sentence in refused(capsys, *arguments, *flags)  # a start that failed is not in the way of the next one


def test_embeddings_from_training_to_predictions(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (60, 2))
    x = rng.normal(size=(60, 5)) + 3 * np.hstack([y, y[:, :1], 1 - y])
    np.save(tmp_path / "features.npy", x.astype(np.float32))
    lines = [f"{i},{y[i, 0]},{y[i, 1] if i % 2 else ''},{'test' if i >= 40 else 'train'}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["row,oedema,mass,part", *lines, "99,1,1,train"]) + "\n")
    data, run = tmp_path / "features.npy", tmp_path / "run"
    flags = ("--labels", tmp_path / "t.csv", "--split-column", "part", "--label-columns", "[oedema,mass]")
    taut("plan", data, *flags)
    assert "encoder: mlp" in capsys.readouterr().out
    taut("train", data, *flags, "--train.steps", 60, "--out", run)
    said = capsys.readouterr().out
    assert "1 row names an input that is not there" in said
    assert "test part of features.npy, 20 images" in said
    assert (run / "skipped.csv").exists()
    found = figures(capsys, run)
    assert found["images"] == 20
    assert found["auroc_macro"] > 0.9
    taut("predict", run, data, "--out", tmp_path / "p.csv")
    assert len(probabilities(tmp_path / "p.csv")) == 60
    np.save(tmp_path / "narrow.npy", x[:, :4])
    assert "inputs of shape [4], but the model takes [5]" in refused(capsys, "predict", run, tmp_path / "narrow.npy")
    assert "holds feature vectors already: leave it out" in refused(
        capsys, "train", data, *flags, "--frozen", _images_run(tmp_path), "--out", tmp_path / "other"
    )


def _parquet(path: Path, order: list[str]) -> None:
    x = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float32)
    columns = {f"f{j}": x[:, j - 1] for j in range(1, 11)} | {"plate": np.arange(12) % 3}
    pd.DataFrame({"id": [f"c{i}" for i in range(12)], **{name: columns[name] for name in order}}).to_parquet(path)


def test_features_are_found_by_their_names(tmp_path: Path, capsys: Capture) -> None:
    names = [f"f{j}" for j in range(1, 11)]
    lines = [f"c{i},{i % 2}" for i in range(12)]
    labels, run = tmp_path / "t.csv", tmp_path / "run"
    labels.write_text("\n".join(["id,sick", *lines]) + "\n")
    _parquet(tmp_path / "e.parquet", names)
    _parquet(tmp_path / "other.parquet", ["plate", *sorted(names)])
    _parquet(tmp_path / "less.parquet", names[:-1])
    taut("train", tmp_path / "e.parquet", "--labels", labels, *FLAGS, "--out", run, "--quiet")
    taut("export", run, "--out", tmp_path / "model")
    for folder in (run, tmp_path / "model"):
        taut("predict", folder, tmp_path / "e.parquet", "--out", tmp_path / "first.csv")
        taut("predict", folder, tmp_path / "other.parquet", "--out", tmp_path / "second.csv")
        assert (tmp_path / "first.csv").read_text() == (tmp_path / "second.csv").read_text()
    first, second = (
        figures(capsys, run, "--data", tmp_path / f"{name}.parquet", "--labels", labels) for name in ("e", "other")
    )
    assert first["nll"] == second["nll"]
    said = refused(capsys, "predict", run, tmp_path / "less.parquet", "--out", tmp_path / "third.csv")
    assert said == "less.parquet lacks features that the model takes: f10"


def test_rows_of_one_table_are_not_of_two_arrays(tmp_path: Path, capsys: Capture) -> None:
    for name in ("train.npy", "test.npy"):
        np.save(tmp_path / name, np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32))
    (tmp_path / "t.csv").write_text("row,sick\n" + "".join(f"{i},{i % 2}\n" for i in range(12)))
    flags = ("--labels", tmp_path / "t.csv", "--test", tmp_path / "test.npy", *FLAGS, "--out", tmp_path / "run")
    said = refused(capsys, "train", tmp_path / "train.npy", *flags)
    assert "row 2 of" in said
    assert "would annotate '0' of train.npy and '0' of --test" in said


def _images_run(tmp_path: Path) -> Path:
    taut("train", "digits", "--labels-per-class", 2, *FLAGS, "--out", tmp_path / "digits", "--quiet")
    return tmp_path / "digits"


def test_the_plan_states_the_memory_and_speaks_for_the_frozen_encoder(tmp_path: Path, capsys: Capture) -> None:
    run = _images_run(tmp_path)
    capsys.readouterr()
    taut("plan", "digits", "--labels-per-class", 2, "--model.width", 4, "--model.weights", run)
    said = capsys.readouterr().out
    assert "memory: about" in said
    assert f"With 20 annotated images and weights that know other images, first try --frozen {run}" in said
    assert "learning_rate: 0.0005" in said
    taut("plan", "digits")
    plain = capsys.readouterr().out
    assert "memory: about" in plain
    assert "--frozen" not in plain


def test_training_starts_from_the_weights_of_a_run(tmp_path: Path) -> None:
    run = _images_run(tmp_path)
    flags = (*FLAGS, "--model.weights", run, "--train.learning_rate", 0, "--train.ema", 0)
    taut("train", "digits", "--labels-per-class", 3, *flags, "--out", tmp_path / "next", "--quiet")
    first, second = (Run(path).load_model().encoder.backbone.state_dict() for path in (run, tmp_path / "next"))
    same = [name for name in first if "running" not in name and "num_batches" not in name]
    assert len(same) > 5
    assert all(torch.equal(first[name], second[name]) for name in same)


def test_a_run_goes_on_without_the_weights_and_with_the_test_data_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    usual, first, run = Stream.batch, tmp_path / "first", tmp_path / "run"

    def cut(self: Stream, step: int, *rest: Any) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return usual(self, step, *rest)

    rng = np.random.default_rng(0)
    for name, n in (("train", 30), ("test", 12)):
        x = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(n) % 3)
    taut("train", tmp_path / "train.npz", *FLAGS, "--out", first, "--quiet")
    flags = (*FLAGS, "--train.checkpoint_every", 2, "--train.steps", 8, "--model.weights", first)
    with monkeypatch.context() as patched:
        patched.setattr(Stream, "batch", cut)
        with pytest.raises(SystemExit):
            taut("train", tmp_path / "train.npz", "--test", tmp_path / "test.npz", *flags, "--out", run)
    shutil.rmtree(first)
    moved = (tmp_path / "test.npz").rename(tmp_path / "moved.npz")
    capsys.readouterr()
    taut("train", tmp_path / "train.npz", "--test", moved, "--out", run, "--resume")
    said = capsys.readouterr().out
    assert "trained 8 steps" in said
    assert "test part of moved.npz, 12 images" in said
