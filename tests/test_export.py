from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from commands import Capture, refused, taut
from taut.data import load_dataset
from taut.estimator import TautClassifier
from taut.evaluate.predict import predict_probabilities
from taut.labels import Label, LabelSpace
from taut.run import Run, load_model
from tiny import FLAGS, TINY

MODEL = {"model.safetensors", "model.json", "program.pt2", "program.json"}


def program(folder: Path) -> Any:
    return torch.export.load(str(folder / "program.pt2")).module()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_program_says_what_the_model_does(tmp_path: Path, capsys: Capture) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    taut("train", "digits", "--labels-per-class", 5, *FLAGS, "--out", run, "--quiet")
    model = Run(run).load_model()
    model.temperature.fill_(1.7)
    Run(run).save_model(model, {"pixel_max": 255.0})
    taut("export", run, "--out", out)
    assert "takes uint8 ['N', 1, 8, 8] and gives probabilities ['N', 10]" in capsys.readouterr().out
    assert names(out) == MODEL
    x = load_dataset("digits").x[:9]
    assert x.dtype == np.uint8
    shipped = program(out)
    for count in (1, 9):
        np.testing.assert_allclose(
            shipped(torch.from_numpy(x[:count])).detach(), predict_probabilities(model, x[:count]), atol=1e-6
        )
    said = json.loads((out / "program.json").read_text())
    assert said["input"].pop("files").startswith("turned as their EXIF says")
    assert said["input"] == {"shape": ["N", 1, 8, 8], "dtype": "uint8", "white": 255}
    assert [column["class"] for column in said["output"]["columns"]] == list(range(10))
    assert said["thresholds"] == {}


def test_images_of_more_than_bytes_go_in_as_fractions_of_their_white(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 4096, (24, 8, 8)).astype(np.uint16)
    x[0, 0, 0] = 4095
    np.savez(tmp_path / "deep.npz", x=x, y=np.arange(24) % 2)
    taut("train", tmp_path / "deep.npz", *FLAGS, "--out", tmp_path / "run", "--quiet")
    taut("export", tmp_path / "run", "--out", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "program.json").read_text())["input"]
    white = Run(tmp_path / "run").pixel_max()
    assert (said["dtype"], said["white"], said["divide_by"]) == ("float32", 1, white)
    taut("predict", tmp_path / "run", tmp_path / "deep.npz", "--out", tmp_path / "p.csv")
    want = pd.read_csv(tmp_path / "p.csv")["label:calibrated"]
    got = program(tmp_path / "out")(torch.from_numpy((x[:, None] / white).astype(np.float32)))[:, 1]
    np.testing.assert_allclose(got.detach(), want, atol=1e-5)


def test_the_column_of_ids_of_other_vectors_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    x = np.random.default_rng(0).normal(size=(24, 3))
    frame = pd.DataFrame({"slide_no": np.arange(24) + 100, **{f"f{j}": x[:, j] for j in range(3)}})
    frame.to_parquet(tmp_path / "e.parquet")
    frame.assign(sick=np.arange(24) % 2)[["slide_no", "sick"]].to_csv(tmp_path / "t.csv", index=False)
    flags = ("--labels", tmp_path / "t.csv", "--path-column", "slide_no", *FLAGS, "--quiet")
    taut("train", tmp_path / "e.parquet", *flags, "--out", tmp_path / "run")
    taut("export", tmp_path / "run", "--out", tmp_path / "out")
    for place in ("run", "out"):
        taut("predict", tmp_path / place, tmp_path / "e.parquet", "--out", tmp_path / f"{place}.csv")
        assert pd.read_csv(tmp_path / f"{place}.csv")["image"].tolist() == list(range(100, 124))


def test_what_is_exported_knows_nothing_of_the_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / "images" / f"scan-{i}.png")
    lines = [f"scan-{i}.png,jones-{i},{i % 2}" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["file,who,oedema", *lines]) + "\n")
    run, out = tmp_path / "run", tmp_path / "out"
    flags = ("--labels", tmp_path / "t.csv", "--group", "who")
    taut("train", tmp_path / "images", *flags, *FLAGS, "--out", run, "--quiet")
    taut("export", run, "--out", out)
    assert names(out) == MODEL
    for path in out.iterdir():
        held = path.read_bytes()
        assert not any(word in held for word in (b"jones", b"scan-", str(tmp_path).encode())), path.name
    assert list(json.loads((out / "program.json").read_text())["thresholds"]) == ["oedema"]
    for folder in (run, out):
        taut("predict", folder, tmp_path / "images", "--out", folder / "p.csv")
    assert (run / "p.csv").read_text() == (out / "p.csv").read_text()
    taut("explain", out, tmp_path / "images" / "scan-0.png", "--label", "oedema", "--out", tmp_path / "e.png")
    again = TautClassifier.load(out)
    x = rng.integers(0, 256, (3, 1, 16, 16), dtype=np.uint8)
    np.testing.assert_allclose(
        again.predict_proba(x)[:, -1], program(out)(torch.from_numpy(x)).detach()[:, 1], atol=1e-6
    )


def test_a_frozen_encoder_is_in_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_file(models.resnet18(weights=None).state_dict(), tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 1, 32, 32), dtype=np.uint8), np.arange(30) % 2
    np.savez(tmp_path / "d.npz", x=x, y=y)
    run, out = tmp_path / "run", tmp_path / "out"
    frozen = ("--frozen", "resnet-18", "--weights", tmp_path / "w.safetensors")
    taut("train", tmp_path / "d.npz", *frozen, "--train.steps", 3, "--train.folds", 0, "--out", run, "--quiet")
    taut("export", run, "--out", out)
    assert names(out) == MODEL | {"frozen.json", "frozen.safetensors"}
    assert str(tmp_path) not in (out / "frozen.json").read_text()
    taut("predict", out, tmp_path / "d.npz", "--out", tmp_path / "p.csv")
    rows = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()]
    column = next(i for i, name in enumerate(rows[0]) if name.endswith(":calibrated"))
    want = [float(row[column]) for row in rows[1:]]
    got = program(out)(torch.from_numpy(x)).detach().numpy()
    assert got.shape == (30, 2)
    columns = json.loads((out / "program.json").read_text())["output"]["columns"]
    assert [entry["class"] for entry in columns] == [0, 1]  # of which the file has the second alone
    np.testing.assert_allclose(got[:, 1], want, atol=1e-4)


@pytest.mark.parametrize("calibration", ["temperature", "isotonic"])
@pytest.mark.parametrize("side", [0, 8])
def test_the_program_of_a_calibrated_model_is_calibrated(side: int, calibration: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (120, side, side), dtype=np.uint8) if side else rng.normal(3, 5, (120, 4))
    np.savez(tmp_path / "d.npz", x=x, y=rng.integers(0, 2, (120, 2)))
    run, out = tmp_path / "run", tmp_path / "out"
    flags = ("--train.calibration", calibration, "--train.valid_fraction", 0.5, "--train.steps", 20)
    taut("train", tmp_path / "d.npz", *FLAGS, *flags, "--out", run, "--quiet")
    taut("export", run, "--out", out)
    model, shown = load_model(run), x[:, None] if side else x.astype(np.float32)
    want = predict_probabilities(model, shown)
    assert not np.allclose(want, predict_probabilities(model, shown, calibrated=False), atol=1e-3)
    for n in (1, 9):
        got = program(out)(torch.from_numpy(shown[:n])).detach().numpy()
        np.testing.assert_allclose(got, want[:n], atol=1e-6)


def test_another_model_takes_the_place_of_the_one_that_was_exported(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 1, 32, 32), dtype=np.uint8), np.arange(30) % 2
    np.savez(tmp_path / "d.npz", x=x, y=y)
    run, other, out = tmp_path / "run", tmp_path / "other", tmp_path / "out"
    taut("train", tmp_path / "d.npz", "--image-size", 16, *FLAGS, "--out", run, "--quiet")
    taut("train", tmp_path / "d.npz", "--frozen", run, *FLAGS, "--image-size", 16, "--out", other, "--quiet")
    assert "is a run, whose model would be replaced" in refused(capsys, "export", run, "--out", other)
    taut("export", other, "--out", out)
    assert names(out) == MODEL | {"frozen.json", "frozen.safetensors"}
    taut("export", run, "--out", out)
    assert names(out) == MODEL
    # It resizes the images of a pack as the run does.
    for folder in (run, out):
        taut("predict", folder, tmp_path / "d.npz", "--out", folder / "p.csv")
    assert (run / "p.csv").read_text() == (out / "p.csv").read_text()


def test_the_program_of_named_features_names_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(40, 3)), columns=["width", "height", "mass"])
    TautClassifier(plan=TINY).fit(frame, np.arange(40) % 2).save(tmp_path / "saved")
    taut("export", tmp_path / "saved", "--out", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "program.json").read_text())
    assert said["input"] == {"shape": ["N", 3], "dtype": "float32", "features": ["width", "height", "mass"]}


def test_an_export_that_cannot_be(tmp_path: Path, capsys: Capture) -> None:
    assert "holds no trained model" in refused(capsys, "export", tmp_path, "--out", tmp_path / "out")
    assert "is the run itself" in refused(capsys, "export", tmp_path, "--out", tmp_path)


def test_a_program_of_labels_of_different_sizes(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    space = LabelSpace((Label("grade", (0, 1, 2)), Label("sick", (0, 1))))
    y = np.stack([np.arange(24) % 3, np.arange(24) % 2], axis=1)
    TautClassifier(plan=TINY, space=space, random_state=0).fit(x, y).save(tmp_path / "model")
    taut("export", tmp_path / "model", "--out", tmp_path / "out")
    found = program(tmp_path / "out")(torch.from_numpy(x[:, None])).detach()
    np.testing.assert_allclose(found, predict_probabilities(load_model(tmp_path / "model"), x[:, None]), atol=1e-6)
