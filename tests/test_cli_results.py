"""What the commands leave behind: whole predictions or none, and a run's own evaluation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import Capture, refused, taut
from image_files import paint
from taut.cli import results
from taut.evaluate.predict import predict_probabilities
from taut.run import Run
from tiny import FLAGS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on 24 images of 8 x 8 pixels, of which the last ten are its test part."""
    x = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    split = np.repeat(["train", "test"], [14, 10])
    np.savez(tmp_path / "pack.npz", x=x, y=np.arange(24) % 2, split=split)
    taut("train", tmp_path / "pack.npz", *FLAGS, "--out", tmp_path / "run", "--quiet")
    return tmp_path / "run"


def test_an_interrupted_prediction_leaves_the_former_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        paint(tmp_path / "new" / f"{i}.png")
    out, part = tmp_path / "p.csv", tmp_path / "p.csv.part"
    monkeypatch.setattr(results, "AT_ONCE", 1)
    taut("predict", run, tmp_path / "new", "--out", out)
    whole = out.read_bytes()
    usual, calls = results.prediction_table, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(results, "prediction_table", interrupted)
        for there in (True, False):
            with pytest.raises(SystemExit) as caught:
                taut("predict", run, tmp_path / "new", "--out", out)
            assert caught.value.code == 130
            assert part.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])
            assert out.exists() == there
            if there:
                assert out.read_bytes() == whole
                out.unlink()
    taut("predict", run, tmp_path / "new", "--out", out)
    assert out.read_bytes() == whole
    assert not part.exists()


def test_inputs_that_cannot_be_predicted_leave_the_former_predictions(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    paint(tmp_path / "new" / "1.png")
    out = tmp_path / "p.csv"
    taut("predict", run, tmp_path / "new", "--out", out)
    whole = out.read_bytes()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "v.npz", x=np.random.default_rng(0).normal(size=(20, 4)), y=np.arange(20) % 2)
    taut("train", tmp_path / "v.npz", *FLAGS, "--out", tmp_path / "vectors", "--quiet")
    capsys.readouterr()
    for model, given, said in (
        (run, tmp_path / "gone.png", "gone.png does not exist"),
        (run, tmp_path / "bad", "bad: no image can be read ("),
        (run, tmp_path / "empty", "empty: no image can be read"),
        (run, tmp_path / "v.npz", "v.npz"),
        (tmp_path / "vectors", tmp_path / "new", "new: the model takes feature vectors, not images"),
    ):
        assert said in refused(capsys, "predict", model, given, "--out", out)
        assert out.read_bytes() == whole
        assert not out.with_suffix(".csv.part").exists()


def test_a_valid_part_that_calibrated_is_the_one_that_is_evaluated(tmp_path: Path, capsys: Capture) -> None:
    """Its images, and not those that a training without it would have held out; the others are the trained ones."""
    rng = np.random.default_rng(0)
    x, split = rng.integers(0, 256, (100, 8, 8), dtype=np.uint8), np.repeat(["train", "valid"], [60, 40])
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(100) % 2, split=split)
    taut("train", tmp_path / "d.npz", *FLAGS, "--out", tmp_path / "run", "--quiet")
    q = predict_probabilities(Run(tmp_path / "run").load_model(), x[:, None])
    wrong = 100 * (q.argmax(axis=1) != np.arange(100) % 2)
    for part, rows in (("valid", split == "valid"), ("train", split == "train")):
        taut("evaluate", tmp_path / "run", "--split", part)
        found = json.loads((tmp_path / "run" / f"evaluation-{part}" / "evaluation.json").read_text())
        assert (found["images"], found["error"]) == (rows.sum(), pytest.approx(wrong[rows].mean(), abs=1e-4))
    capsys.readouterr()
    taut("evaluate", tmp_path / "run")
    said = capsys.readouterr().err
    assert "there is no test part; these are the images that the run was trained on; --split valid evaluates" in said


def test_a_link_to_predictions_stays_one(run: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    taut("predict", run, tmp_path / "pack.npz", "--out", link)
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == 25
    # Devices and pipes are written to, and nothing is put in their place.
    ends = os.pipe()
    for place in (Path(os.devnull), Path(f"/dev/fd/{ends[1]}")):
        assert results._unfinished(place) == (place, place)
    for end in ends:
        os.close(end)


def test_the_progress_of_a_prediction_is_over_all_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    class Bar:
        def __init__(self, total: int | None, disable: Any, **_: Any) -> None:
            assert disable is None  # quiet where there is no terminal
            self.total, self.n = total, 0

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def update(self, count: int) -> None:
            self.n += count
            assert self.total is not None
            seen.append((self.n, self.total))

    monkeypatch.setattr(results, "tqdm", Bar)
    monkeypatch.setattr(results, "AT_ONCE", 2)
    for i in range(4):
        paint(tmp_path / "new" / f"{i}.png")
    (tmp_path / "new" / "bad.png").write_bytes(b"not an image")
    with pytest.raises(SystemExit):
        taut("predict", run, tmp_path / "new", "--out", tmp_path / "p.csv")
    assert {total for _, total in seen} == {5}
    assert seen[-1] == (5, 5)
    assert len({n for n, _ in seen}) > 2
    seen.clear()
    taut("predict", run, tmp_path / "pack.npz", "--out", tmp_path / "p.csv")
    assert seen[1:] == [(n, 24) for n in range(2, 25, 2)]


def test_other_data_leave_the_evaluation_of_the_run_s_own(run: Path, tmp_path: Path, capsys: Capture) -> None:
    def figures(folder: Path) -> dict[str, Any]:
        assert {path.name for path in folder.iterdir()} >= {"evaluation.json", "evaluation.csv", "reliability.png"}
        return dict(json.loads((folder / "evaluation.json").read_text()))

    taut("evaluate", run, "--resamples", 0)
    own = {path: path.read_bytes() for path in run.glob("*") if path.is_file()}
    assert figures(run)["images"] == 10
    x = np.random.default_rng(1).integers(0, 256, (7, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", x=x, y=np.arange(7) % 2)
    capsys.readouterr()
    taut("evaluate", run, "--data", tmp_path / "other.npz", "--resamples", 0)
    assert f"are in {run / 'evaluation-other'}" in capsys.readouterr().out
    assert figures(run / "evaluation-other")["images"] == 7
    taut("evaluate", run, "--split", "train", "--resamples", 0)
    assert figures(run / "evaluation-train")["split"] == "train"
    taut("evaluate", run, "--data", tmp_path / "other.npz", "--resamples", 0, "--out", tmp_path / "out")
    assert figures(tmp_path / "out")["images"] == 7
    assert {path: path.read_bytes() for path in run.glob("*") if path.is_file()} == own
    taut("evaluate", run, "--split", "test", "--resamples", 0)
    assert (run / "evaluation.json").read_bytes() == own[run / "evaluation.json"]
