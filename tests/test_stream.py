from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from taut.build import build_model
from taut.data.augment import Augment
from taut.data.dataset import Dataset
from taut.data.stream import Cycle, Stream
from taut.facts import fingerprint
from taut.nn.vae import LabelVAE
from taut.objective import Batch, SecondView
from taut.rules import make_plan
from tiny import NAN, ONE, SEVERAL, cells, images, some_known, tiny, vectors

CPU = torch.device("cpu")
STILL = Augment(rotation=0, scale=0, shift=0, shear=0, noise=0)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def model_of(data: Dataset) -> LabelVAE:
    facts = fingerprint(data)
    return build_model(data, tiny()(make_plan(facts)), facts)


def stream_of(data: Dataset, labelled: int = 4, unlabelled: int = 6, seed: int = 0, **options: Any) -> Stream:
    return Stream(data, options.pop("augment", Augment()), labelled, unlabelled, seed, **options)


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return all((p is q) if p is None else torch.equal(p.nan_to_num(-1), q.nan_to_num(-1)) for p, q in pairs)


# --- the cycle ----------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 200))
def test_every_pass_is_a_permutation(n: int, seed: int, number: int) -> None:
    rows = np.arange(n) * 7 + 3
    assert sorted(Cycle(rows, seed).take(number * n, n)) == rows.tolist()


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
def test_the_position_is_exact(rows: int, n: int, m: int) -> None:
    cycle = Cycle(np.arange(rows), 5)
    whole = cycle.take(0, n + m)
    assert len(whole) == n + m
    # A cycle of its own, as after resuming, and out of order.
    other = Cycle(np.arange(rows), 5)
    second, first = other.take(n, m), other.take(0, n)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)


def test_passes_and_seeds_differ_in_order() -> None:
    cycle = Cycle(np.arange(50), 0)
    assert not np.array_equal(cycle.take(0, 50), cycle.take(50, 50))
    assert not np.array_equal(cycle.take(0, 50), Cycle(np.arange(50), 1).take(0, 50))
    assert cycle.take(7, 0).shape == (0,)


# --- the stream ---------------------------------------------------------------------------------------------


def test_annotated_rows_come_first() -> None:
    data = images(some_known(60, 12))
    batch = stream_of(data).batch(3, model_of(data), CPU)
    assert batch.x.shape == (10, 1, 8, 8)
    assert batch.observed[:, 0].tolist() == [True] * 4 + [False] * 6
    assert bool(batch.targets[:4].isfinite().all())
    assert bool(batch.targets[4:].isnan().all())
    assert batch.second is not None
    assert batch.second.shape == (6, 1, 8, 8)


def test_images_targets_and_masks_belong_together() -> None:
    y = cells(60, 0.5)
    data = images(y, SEVERAL)
    stream, model = stream_of(data, augment=STILL), model_of(data)
    for step in range(3):
        rows, batch = stream.rows(step), stream.batch(step, model, CPU)
        torch.testing.assert_close(batch.x, torch.from_numpy(data.x[rows]) / 255)
        assert batch.second is not None
        torch.testing.assert_close(batch.second, batch.x[4:])
        np.testing.assert_array_equal(batch.targets, data.annotation.targets[rows])
        np.testing.assert_array_equal(batch.observed, data.annotation.observed[rows])


def test_partly_annotated_images_are_of_both_kinds() -> None:
    y = np.array([[1.0, 0.0]] * 5 + [[1.0, math.nan]] * 5 + [[math.nan, math.nan]] * 5)
    stream = stream_of(vectors(y, SEVERAL))
    assert sorted(stream.annotated.rows) == list(range(10))
    assert sorted(stream.rest.rows) == list(range(5, 15))


def test_images_without_any_annotation_have_the_share_that_is_asked_for() -> None:
    y = np.full((40, 2), NAN)
    y[:10, 0], y[:4, 1] = 1, 0
    data = images(y, SEVERAL)
    seen = {
        share: np.stack([Stream(data, Augment(), 4, 8, 0, unannotated=share).rows(step) for step in range(30)])
        for share in (None, 0.0, 0.25)
    }
    assert set(seen[None][:, 4:].ravel()) == set(range(4, 40))
    assert set(seen[0.0].ravel()) == set(range(10))
    assert set(seen[0.25][:, :4].ravel()) == set(range(4))  # complete ones alone
    assert set(seen[0.25][:, 4:10].ravel()) == set(range(4, 10))
    assert set(seen[0.25][:, 10:].ravel()) == set(range(10, 40))
    # Complete ones are not drawn more often than others that are annotated: four of ten have no five of six rows.
    many = Stream(data, Augment(), 5, 1, 0, unannotated=0.0)
    assert set(many.annotated.rows) == set(range(10))
    # Where there is one kind of them alone, there is nothing to share.
    for rows in (data.rows(np.arange(10)), data.rows(np.arange(10, 40))):
        stream = Stream(rows, Augment(), 4, 8, 0, unannotated=0.5)
        assert set(stream.rest.rows) == set(np.flatnonzero(~rows.annotation.complete))
        assert stream.other == 0


def test_of_a_partly_annotated_table_all_images_are_drawn_alike() -> None:
    y = np.array([[1.0, 0.0]] * 8 + [[1.0, math.nan]] * 12)
    stream = stream_of(vectors(y, SEVERAL), labelled=4, unlabelled=6)
    assert sorted(stream.annotated.rows) == list(range(8))
    drawn = np.concatenate([stream.rows(step) for step in range(10)])
    assert set(np.bincount(drawn)) == {5}
    # Without a second kind nothing is left out.
    alone = stream_of(vectors(y, SEVERAL), labelled=4, unlabelled=0)
    assert sorted(alone.annotated.rows) == list(range(20))


@pytest.mark.parametrize(("known", "sizes"), [(60, (4, 0)), (0, (0, 6)), (12, (4, 6))])
def test_a_kind_that_is_not_there_is_left_out(known: int, sizes: tuple[int, int]) -> None:
    data = vectors(some_known(60, known))
    stream = stream_of(data)
    assert (stream.labelled, stream.unlabelled) == sizes
    batch = stream.batch(0, model_of(data), CPU)
    assert len(batch.x) == sum(sizes)
    assert (batch.second is None) == (sizes[1] == 0)


def test_no_second_view_where_none_is_asked_for() -> None:
    data = vectors(some_known())
    assert stream_of(data, second="none").batch(0, model_of(data), CPU).second is None


@pytest.mark.parametrize("second", ["weak", "strong"])
def test_the_second_view_is_as_strong_as_asked_for(second: SecondView) -> None:
    data = images(some_known())
    model = model_of(data)
    # Only strong views lose parts, and nothing else changes them here.
    augment = dataclasses.replace(STILL, erase=3)
    stream = stream_of(data, second=second, augment=augment)
    batch = stream.batch(0, model, CPU)
    assert batch.second is not None
    assert torch.equal(batch.second, batch.x[4:]) == (second == "weak")
    # A weak second view is a draw of its own.
    lively = stream_of(data, second=second).batch(0, model, CPU)
    assert lively.second is not None
    assert bool((lively.second != lively.x[4:]).flatten(1).any(1).all())


def test_every_row_is_seen_equally_often() -> None:
    stream = stream_of(vectors(some_known(60, 12)), labelled=4, unlabelled=6)
    rows = np.concatenate([stream.rows(step) for step in range(24)])  # 8 passes of 12 rows, 3 of 48
    assert np.bincount(rows).tolist() == [8] * 12 + [3] * 48


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_pass_of_one(processes: int) -> None:
    data = vectors(some_known(60, 12))
    streams = [stream_of(data, process=p, processes=processes) for p in range(processes)]
    for step in range(2):
        parts = [stream.rows(step) for stream in streams]
        labelled = np.concatenate([part[:4] for part in parts])
        unlabelled = np.concatenate([part[4:] for part in parts])
        if step == 0:
            assert len(set(labelled)) == 4 * processes
        assert len(set(unlabelled)) == 6 * processes
        whole = stream_of(data, 4 * processes, 6 * processes).rows(step)
        np.testing.assert_array_equal(np.concatenate([labelled, unlabelled]), whole)


def test_the_same_step_gives_the_same_bits_and_others_do_not() -> None:
    data = images(some_known())
    model, stream = model_of(data), stream_of(data, augment=Augment(erase=1))
    first = stream.batch(5, model, CPU)
    stream.batch(0, model, CPU)
    torch.manual_seed(7)
    assert same(stream.batch(5, model, CPU), first)
    assert same(stream_of(data, augment=Augment(erase=1)).batch(5, model, CPU), first)
    for other in (stream_of(data, seed=1), stream_of(data, process=1, processes=2)):
        assert not same(other.batch(5, model, CPU), first)
    assert not same(stream.batch(6, model, CPU), first)


def test_processes_augment_one_row_differently() -> None:
    data = images(np.zeros(1, dtype=int), ONE)
    model = model_of(data)
    batches = [stream_of(data, 1, 0, process=p, processes=2).batch(0, model, CPU) for p in range(2)]
    assert not torch.equal(batches[0].x, batches[1].x)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batches are empty"):
        stream_of(vectors(some_known(60, 60)), labelled=0)


# --- augmentation -------------------------------------------------------------------------------------------

LIVELY = Augment(rotation=30, brightness=0.2, contrast=0.3, erase=2)


def views(augment: Augment, x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    return augment.weak(x, generator), augment.strongly(x, generator)


def blob(height: int, width: int, row: float, column: float, spread: float = 1.5) -> Tensor:
    """A round spot of light at a place."""
    rows, columns = torch.arange(height).float()[:, None], torch.arange(width).float()
    return (-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2)).exp()[None, None]


def moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """The centre [2] and the covariance [2, 2] of an image's light, in pixels (row, column)."""
    _, height, width = image.shape
    rows, columns = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    places, weight = torch.stack([rows.flatten(), columns.flatten()]), image.flatten() / image.sum()
    centre = places @ weight
    offset = places - centre[:, None]
    return centre, (offset * weight) @ offset.T


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 20)])
def test_shape_type_and_range_are_kept(shape: tuple[int, int, int]) -> None:
    x = torch.rand(16, *shape, generator=seeded())
    for view in views(LIVELY, x):
        assert view.shape == x.shape
        assert view.dtype == x.dtype
        assert 0 <= float(view.min()) < float(view.max()) <= 1
        assert not torch.equal(view, x)


@pytest.mark.parametrize("x", [torch.rand(1, 1, 8, 8), torch.randn(1, 6)])
def test_every_image_of_a_batch_gets_its_own_view(x: Tensor) -> None:
    for view in views(Augment(erase=1, drop=0.2), x.expand(20, *x.shape[1:])):
        assert len({tuple(row.flatten().tolist()) for row in view}) == 20


@pytest.mark.parametrize("x", [torch.rand(8, 3, 8, 8), torch.randn(8, 6)])
def test_views_are_decided_by_the_generator_alone(x: Tensor) -> None:
    first = views(LIVELY, x, seed=1)
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(views(LIVELY, x, seed=1), first, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(views(LIVELY, x, seed=2), first, strict=True))


@pytest.mark.parametrize("x", [torch.rand(4, 1, 9, 7), torch.randn(4, 6)])
def test_no_ranges_change_nothing(x: Tensor) -> None:
    assert all(torch.equal(view, x) for view in views(STILL, x))


@pytest.mark.parametrize("name", ["rotation", "scale", "shift", "shear", "brightness", "contrast"])
def test_strong_views_are_wider(name: str) -> None:
    augment = dataclasses.replace(STILL, strong=3.0, **{name: 0.1 if name != "rotation" else 8.0})
    x = blob(16, 16, 9, 6).expand(400, -1, -1, -1) * 0.5
    weak, strong = ((view - x).abs().mean() for view in views(augment, x))
    assert float(weak) > 1e-4
    assert float(strong) > 1.8 * float(weak)


def test_nothing_is_mirrored_unless_asked_for() -> None:
    # Light in the left half: only a mirror brings it to the right.
    x = blob(16, 16, 8, 3).expand(200, -1, -1, -1)
    columns = torch.stack([moments(image)[0][1] for image in views(Augment(), x)[1]])
    assert float(columns.max()) < 7.5
    flip = dataclasses.replace(STILL, flip=True)
    mirrored = [float(moments(image)[0][1]) > 8 for image in views(flip, x)[0]]
    assert 60 < sum(mirrored) < 140
    torch.testing.assert_close(views(flip, x)[0][mirrored.index(True)], x[0].flip(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(32, 32), (24, 48), (48, 24)])
def test_a_turn_keeps_round_things_round_and_their_distance(shape: tuple[int, int]) -> None:
    height, width = shape
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2])
    x = blob(height, width, float(middle[0]) + 4, float(middle[1]) + 5, spread=1.2).expand(40, -1, -1, -1)
    turned = views(dataclasses.replace(STILL, rotation=90.0), x)[0]
    angles = []
    for image in turned:
        centre, covariance = moments(image)
        assert float((centre - middle).norm()) == pytest.approx(math.hypot(4, 5), abs=0.1)
        torch.testing.assert_close(covariance, moments(x[0])[1].trace() / 2 * torch.eye(2), atol=0.35, rtol=0)
        angles.append(math.degrees(math.atan2(*(centre - middle).tolist())))
    spread = np.array(angles) - math.degrees(math.atan2(4, 5))
    assert np.abs(spread).max() <= 91
    assert spread.min() < -45
    assert spread.max() > 45


def test_a_shift_is_a_share_of_the_side() -> None:
    x = blob(20, 40, 10, 20).expand(300, -1, -1, -1)
    moved = torch.stack([moments(image)[0] for image in views(dataclasses.replace(STILL, shift=0.1), x)[0]])
    reach = (moved - torch.tensor([10.0, 20.0])).abs().max(0).values
    torch.testing.assert_close(reach, torch.tensor([2.0, 4.0]), atol=0.15, rtol=0)


@pytest.mark.parametrize("augment", [Augment(erase=1), Augment(erase=3, erase_area=0.02, erase_aspect=2.0)])
def test_erasing_takes_the_right_share(augment: Augment) -> None:
    augment = dataclasses.replace(augment, rotation=0, scale=0, shift=0, shear=0)
    x = torch.full((2000, 1, 40, 40), 0.5)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = 0.4, 0.7
    weak, strong = views(augment, x)
    assert torch.equal(weak, x)
    gone = strong != x
    assert set(strong[gone].tolist()) == {np.float32(0.4), np.float32(0.7)}  # the extremes of the image itself
    # The same by other means: one rectangle's share inside the image, and no two of them cover each other's share.
    rng = np.random.default_rng(0)
    aspect = augment.erase_aspect ** rng.uniform(-1, 1, 200_000)
    area = augment.erase_area * rng.uniform(0.5, 1.5, 200_000)
    share = np.ones(200_000)
    for side in (np.sqrt(area * aspect), np.sqrt(area / aspect)):
        centre = rng.random(200_000)
        share *= np.minimum(1, centre + side / 2) - np.maximum(0, centre - side / 2)
    want = 1 - (1 - share.mean()) ** augment.erase
    assert float(gone.float().mean()) == pytest.approx(want, rel=0.08)
    assert float(strong[gone].mean()) == pytest.approx(0.55, abs=0.02)


def test_one_rectangle_is_erased_and_through_all_colours() -> None:
    augment = dataclasses.replace(STILL, erase=1)
    x = torch.full((50, 3, 30, 30), 0.5)
    x[:, :, 0, 0], x[:, :, 0, 1] = 0, 1
    strong = views(augment, x)[1]
    assert bool((strong != x).any(dim=(1, 2, 3)).all())
    for image in strong[:, :, 1:]:
        gone = image != 0.5
        assert torch.equal(gone, gone[:1].expand(3, -1, -1))
        rows, columns = gone[0].any(1), gone[0].any(0)
        assert torch.equal(gone[0], rows[:, None] & columns)


def test_colour_changes_brightness_and_contrast_and_leaves_places() -> None:
    x = blob(16, 16, 8, 8, spread=3.0).expand(100, 3, -1, -1) * 0.6 + 0.2
    weak = views(dataclasses.replace(STILL, brightness=0.1, contrast=0.2), x)[0]
    means, spreads = weak.mean((1, 2, 3)), weak.std((1, 2, 3)) / x[0].std()
    assert float((means - x[0].mean()).abs().max()) <= 0.1 + 1e-4
    assert float(means.std()) > 0.03
    assert math.exp(-0.2) - 0.01 <= float(spreads.min()) < 0.9
    assert 1.1 < float(spreads.max()) <= math.exp(0.2) + 0.01
    assert torch.equal(weak.flatten(1).argmax(1), x.flatten(1).argmax(1))


def test_a_dim_channel_keeps_what_it_shows_beside_a_bright_one() -> None:
    """Each channel varies about its own mean, by no more of its own spread than the others, within its extremes."""
    spot = blob(16, 16, 8, 8, spread=3.0).expand(200, -1, -1, -1)
    x = torch.cat([0.2 + 0.6 * spot, 0.02 + 0.03 * spot], dim=1)
    augment = dataclasses.replace(STILL, brightness=0.1, contrast=0.2, erase=1)
    for view in views(augment, x):
        bright, dim = ((view - x).mean((2, 3)) / x.std((2, 3))).abs().amax(0)
        assert 0.1 < float(bright) < 1.5
        assert 0.1 < float(dim) < 1.5
        assert float(view[:, 1].max()) < 0.1
    # Colours that vary alike get brighter and darker alike.
    alike = views(dataclasses.replace(STILL, brightness=0.1), 0.3 + 0.3 * spot.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(alike[:, 0], alike[:, 2])


def test_a_ground_of_any_brightness_stays_one() -> None:
    """A white page has no black corners after a turn, and its views are those of the inverted image."""
    x = blob(20, 20, 9, 11).expand(40, -1, -1, -1)
    augment = dataclasses.replace(STILL, rotation=30.0, shift=0.2, scale=0.3)
    for dark, white in zip(views(augment, x), views(augment, 1 - x), strict=True):
        torch.testing.assert_close(1 - white, dark, atol=1e-5, rtol=0)
        assert float(white[:, :, 0, 0].min()) > 0.9


def test_features_get_noise_and_only_strong_views_lose_some() -> None:
    x = torch.full((4000, 5), 3.0)
    weak, strong = views(Augment(noise=0.1, strong=2.0, drop=0.25), x)
    assert float((weak - x).std()) == pytest.approx(0.1, rel=0.05)
    assert float((weak - x).mean()) == pytest.approx(0, abs=0.005)
    assert not bool((weak == 0).any())
    lost = strong == 0
    assert float(lost.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float((strong - x)[~lost].std()) == pytest.approx(0.2, rel=0.05)


def test_inputs_on_a_disk_are_read_ahead_and_are_the_same(tmp_path: Path) -> None:
    data = images(some_known(20))
    np.save(tmp_path / "x.npy", data.x)
    mapped = dataclasses.replace(data, x=np.load(tmp_path / "x.npy", mmap_mode="r"))
    model, stream, ahead = model_of(data), stream_of(data), stream_of(mapped)
    for step in (0, 1, 2, 7, 8, 1):
        assert same(ahead.batch(step, model, CPU), stream.batch(step, model, CPU))
    read: list[Any] = []
    ahead.x = SimpleNamespace(__getitem__=read.append)
    assert torch.equal(ahead.batch(2, model, CPU).x, stream.batch(2, model, CPU).x)  # read before the map was gone
