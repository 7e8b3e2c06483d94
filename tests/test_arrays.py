from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from packs import PACKS, needs
from taut.data import load_dataset
from taut.data.arrays import load_npz
from taut.data.dataset import DataError, as_images
from taut.data.resized import resized
from taut.labels import LabelError, LabelSpace


def pixels(n, *shape):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def save(tmp_path, **arrays):
    path = tmp_path / "pack.npz"
    np.savez(path, **arrays)
    return path


def jpegs(images, kind="JPEG"):
    files = []
    for image in images:
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, kind)
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    return {"jpeg": np.frombuffer(b"".join(files), dtype=np.uint8), "offsets": offsets}


def test_numbers_of_classes_that_nan_has_made_floats_of(tmp_path: Path) -> None:
    x, y = np.zeros((4, 8, 8), np.uint8), np.array([0.0, 2.0, np.nan, 1.0])
    np.savez(tmp_path / "named.npz", x=x, y=y, class_names=np.array(["cat", "dog", "cow"]))
    data = load_npz(tmp_path / "named.npz")
    assert data.space.labels[0].classes == ("cat", "dog", "cow")
    assert data.annotation.observed[:, 0].tolist() == [True, True, False, True]
    assert data.annotation.targets[[0, 1, 3]].argmax(1).tolist() == [0, 2, 1]
    np.savez(tmp_path / "bare.npz", x=x, y=y)
    classes = load_npz(tmp_path / "bare.npz").space.labels[0].classes
    assert classes == (0, 1, 2)
    assert {type(value) for value in classes} == {int}
    np.savez(tmp_path / "infinite.npz", x=x, y=np.array([0.0, 1.0, np.inf, 1.0]))
    with pytest.raises(LabelError, match="continuous"):
        load_npz(tmp_path / "infinite.npz")


def test_images_with_classes(tmp_path):
    x = pixels(4, 5, 6)
    data = load_npz(save(tmp_path, x=x, y=np.array([2, 0, -1, 2])))
    assert data.x.shape == (4, 1, 5, 6)
    assert data.x.dtype == np.uint8
    np.testing.assert_array_equal(data.x[:, 0], x)
    assert data.space.labels[0].classes == (0, 2)
    assert data.annotation.observed[:, 0].tolist() == [True, True, False, True]
    assert data.ids == ["0", "1", "2", "3"]
    assert data.split is None
    assert data.groups is None
    assert data.name == "pack.npz"


def test_a_square_may_have_more_bands_than_pixels_a_side(tmp_path):
    x = pixels(4, 6, 6, 20)
    y = np.array([0, 1, 0, 1])
    last, first = (load_npz(save(tmp_path, x=array, y=y)).x for array in (x, x.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(last, x.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(first, last)
    with pytest.raises(DataError, match="or another number beside two equal sides"):
        load_npz(save(tmp_path, x=pixels(4, 7, 6, 20), y=y))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path, value):
    x = pixels(4, 6, 6) / 255
    x[2, 1, 1] = value
    with pytest.raises(DataError, match=r"pack\.npz: NaN or infinity among the pixels"):
        load_npz(save(tmp_path, x=x, y=np.array([0, 1, 0, 1])))


def test_a_fourth_channel_is_kept_or_dropped_as_asked(tmp_path):
    x, y = pixels(4, 6, 6, 4), np.array([0, 1, 0, 1])
    path = str(save(tmp_path, x=x, y=y))
    turned = x.transpose(0, 3, 1, 2)
    for asked, wanted in ((None, turned), (4, turned), (3, turned[:, :3])):
        np.testing.assert_array_equal(load_dataset(path, channels=asked).x, wanted)
    x[..., 3] = 255
    path = str(save(tmp_path, x=x, y=y))
    for asked, count in ((None, 3), (4, 4), (3, 3)):
        assert load_dataset(path, channels=asked).x.shape == (4, count, 6, 6)


def test_a_column_of_classes_is_one_label(tmp_path):
    data = load_npz(save(tmp_path, x=pixels(3, 2, 2), y=np.array([[0], [1], [2]])))
    assert data.space.sizes == (3,)


def test_another_value_for_unannotated(tmp_path):
    path = save(tmp_path, x=pixels(3, 2, 2), y=np.array([0, 1, 99]))
    assert load_npz(path, unlabeled=99).annotation.observed[:, 0].tolist() == [True, True, False]


@pytest.mark.parametrize("hole", [-1, "", "nan", None])
def test_holes_in_text_are_no_class(tmp_path, hole):
    y = np.array(["cat", "dog", "cat", str(hole)])
    data = load_npz(save(tmp_path, x=pixels(4, 2, 2), y=y))
    assert data.space.labels[0].classes == ("cat", "dog")
    assert data.annotation.observed[:, 0].tolist() == [True, True, True, False]
    data = load_npz(save(tmp_path, x=pixels(4, 2, 2), y=y.astype("S")))
    assert data.space.labels[0].classes == ("cat", "dog")


def test_class_names_are_the_classes(tmp_path):
    path = save(tmp_path, x=pixels(3, 2, 2), y=np.array([1, -1, 0]), class_names=np.array(["cat", "dog", "cow"]))
    data = load_npz(path)
    assert data.space.labels[0].classes == ("cat", "dog", "cow")
    assert data.space.decode(data.annotation, None).tolist() == ["dog", None, "cat"]


def test_class_names_with_an_explicit_space(tmp_path):
    path = save(tmp_path, x=pixels(2, 2, 2), y=np.array([1, 0]), class_names=np.array(["cat", "dog"]))
    texts = load_npz(path, LabelSpace.multiclass(["dog", "cow", "cat"]))
    assert texts.annotation.targets.argmax(axis=1).tolist() == [0, 2]
    numbers = load_npz(path, LabelSpace.multiclass(3))
    assert numbers.annotation.targets.argmax(axis=1).tolist() == [1, 0]


def test_class_index_out_of_range(tmp_path):
    path = save(tmp_path, x=pixels(2, 2, 2), y=np.array([1, 7]), class_names=np.array(["cat", "dog"]))
    with pytest.raises(LabelError, match=r"pack\.npz: row 1: 'y' is 7, but there are 2 class_names"):
        load_npz(path)


def test_yes_no_labels_with_names_split_groups_and_ids(tmp_path):
    path = save(
        tmp_path,
        x=pixels(3, 5, 6, 3),
        y=np.array([[1, 0], [0, 0], [1, 1]], dtype=np.int8),
        label_names=np.array(["A", "B"]),
        split=np.array([b"train", b"valid", b"test"]),
        patient_id=np.array([7, 7, 9]),
        image_id=np.array(["a.png", "b.png", "c.png"]),
    )
    data = load_npz(path, group="patient_id")
    assert data.x.shape == (3, 3, 5, 6)
    assert data.space == LabelSpace.multilabel(["A", "B"])
    assert data.annotation.targets[:, 1::2].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert data.split.tolist() == ["train", "valid", "test"]
    assert data.groups.tolist() == [7, 7, 9]
    assert data.ids == ["a.png", "b.png", "c.png"]
    assert data.notes == []
    torn = (
        "Array 'patient_id' is not used: 1 of 2 are in several parts of the split, so that figures of the test part "
        "may be too good."
    )
    assert load_npz(path).notes == [torn]
    one_each = {"x_train": pixels(2, 2, 2), "x_test": pixels(1, 2, 2), "y_train": [0, 1], "y_test": [0]}
    assert load_npz(save(tmp_path, **one_each, mrn_train=[1.0, np.nan], mrn_test=[np.nan])).notes == []
    both = save(tmp_path, **one_each, mrn_train=["a", "b"], mrn_test=["a"])
    assert load_npz(both).notes == [torn.replace("patient_id", "mrn")]
    objects = save(tmp_path, x=pixels(2, 2, 2), y=[0, 1], patient_id=np.array(["a", None], dtype=object))
    assert load_npz(objects).notes == []  # nothing asks for it


def test_columns_follow_the_names_of_an_explicit_space(tmp_path):
    y = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.int8)
    path = save(tmp_path, x=pixels(2, 2, 2), y=y, label_names=np.array(["A", "B", "C"]))
    data = load_npz(path, LabelSpace.multilabel(["C", "A"]))
    assert data.annotation.targets[:, 1::2].tolist() == [[0, 1], [0, 0]]
    with pytest.raises(LabelError, match=r"pack\.npz: no label 'D' among its label_names"):
        load_npz(path, LabelSpace.multilabel(["A", "D"]))


def test_parts_are_joined_with_their_split(tmp_path):
    path = save(
        tmp_path,
        x_train=np.zeros((3, 5), dtype=np.float32),
        y_train=np.array([0, 1, 0]),
        x_valid=np.ones((1, 5), dtype=np.float32),
        x_test=np.full((2, 5), 2, dtype=np.float32),
        y_test=np.array([2, 1]),
        who_train=np.array(["a", "a", "b"]),
        who_valid=np.array(["c"]),
        who_test=np.array(["d", "e"]),
    )
    data = load_npz(path, group="who")
    assert data.split.tolist() == ["train"] * 3 + ["valid"] + ["test"] * 2
    assert data.x[:, 0].tolist() == [0, 0, 0, 1, 2, 2]
    assert data.annotation.observed[:, 0].tolist() == [True, True, True, False, True, True]
    assert data.space.labels[0].classes == (0, 1, 2)
    assert data.groups.tolist() == ["a", "a", "b", "c", "d", "e"]


def test_a_part_of_another_name_is_not_lost(tmp_path):
    arrays = {f"{name}_{part}": np.zeros((4, 3)) for name in ("x", "y") for part in ("train", "extra", "test")}
    with pytest.raises(
        DataError, match=r"'x_extra' beside x_train, x_test is no part of a split: call it x_train, x_v"
    ):
        load_npz(save(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("inputs", "annotations"),
    [("{}_images", "{}_labels"), ("X_{}", "Y_{}"), ("{}_data", "target_{}"), ("x_{}", "y_{}")],
)
def test_names_that_others_use_are_read(tmp_path, inputs, annotations):
    arrays = {}
    for i, part in enumerate(("train", "val", "test")):
        arrays[inputs.format(part)] = np.full((4, 6, 6), 100 * i, dtype=np.uint8)
        arrays[annotations.format(part)] = np.full((4, 1), i, dtype=np.uint8)
    data = load_npz(save(tmp_path, **arrays))
    assert data.split.tolist() == ["train"] * 4 + ["valid"] * 4 + ["test"] * 4
    assert data.x[:, 0, 0, 0].tolist() == [0] * 4 + [100] * 4 + [200] * 4
    assert data.annotation.targets.argmax(axis=1).tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_known_name_goes_before_what_stands_for_it(tmp_path):
    data = load_npz(save(tmp_path, x=pixels(2, 2, 2), y=np.array([0, 1]), labels=np.array(["a", "b", "c"])))
    assert data.annotation.targets.argmax(axis=1).tolist() == [0, 1]
    parts = {f"x_{part}": pixels(2, 2, 2) for part in ("train", "test")}
    parts |= {f"y_{part}": np.array([0, 1]) for part in ("train", "test")}
    path = save(tmp_path, **parts, labels=np.array(["a", "b", "c"]), features=np.ones((3, 2)))
    assert load_npz(path).split.tolist() == ["train"] * 2 + ["test"] * 2


def test_what_is_unannotated_may_be_a_class_by_name(tmp_path):
    arrays = {"x": pixels(3, 2, 2), "y": np.array([0, 2, 1]), "class_names": np.array(["cat", "dog", "Unknown"])}
    data = load_npz(save(tmp_path, **arrays), unlabeled="Unknown")
    assert data.annotation.observed[:, 0].tolist() == [True, False, True]
    assert data.space.labels[0].classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["x_unlabeled", "unlabeled_images", "X_unlabelled", "Unlabeled", "images_unlabeled"])
def test_images_without_annotations_are_for_training(tmp_path, name):
    more = {name: np.full((2, 6, 6), 200, dtype=np.uint8)}
    whole = {"X": pixels(3, 6, 6), "y": [0, 1, 1], "split": ["train", "train", "test"], "who": [1.0, 2.0, 2.0]}
    path = save(tmp_path, **whole, **more, ids=["a", "b", "c"])
    data = load_npz(path, group="who")
    assert data.split.tolist() == ["train", "train", "test", "train", "train"]
    assert data.annotation.observed[:, 0].tolist() == [True] * 3 + [False] * 2
    assert data.ids == ["a", "b", "c", "unlabeled:3", "unlabeled:4"]
    assert data.groups.tolist() == ["1", "2", "2", f"{path}:3", f"{path}:4"]
    assert (data.x[3:] == 200).all()
    parts = {"x_train": pixels(2, 6, 6), "y_train": [0, 1], "x_test": pixels(1, 6, 6), "y_test": [0]}
    data = load_npz(save(tmp_path, **parts, **more))
    assert data.split.tolist() == ["train", "train", "test", "train", "train"]
    assert data.annotation.observed[:, 0].tolist() == [True] * 3 + [False] * 2
    assert load_npz(save(tmp_path, x=pixels(2, 6, 6), y=[0, 1], **more)).split is None
    with pytest.raises(DataError, match=r"'y_unlabeled' are annotations of images that are to have none"):
        load_npz(save(tmp_path, **parts, **more, y_unlabeled=[0, 1]))


def test_unlabelled_images_may_have_names_of_their_own(tmp_path):
    arrays = {"x": pixels(2, 6, 6), "y": [0, 1], "x_unlabeled": pixels(2, 6, 6)}
    own = load_npz(save(tmp_path, **arrays, ids=["a", "b"], ids_unlabeled=["c", "d"]))
    assert own.ids == ["a", "b", "c", "d"]
    assert load_npz(save(tmp_path, **arrays, ids=["a", "b", "c", "d"])).ids == own.ids
    with pytest.raises(DataError, match=r"'unlabeled' has shape \[2\]: expected images or vectors"):
        load_npz(save(tmp_path, x=pixels(2, 6, 6), y=[0, 1], unlabeled=[True, False]))
    jpeg = {**jpegs(pixels(2, 8, 8)), "y": [0, 1], "x_unlabeled": pixels(3, 1, 8, 8)}
    assert load_npz(save(tmp_path, **jpeg)).x.shape == (5, 1, 8, 8)


def test_a_split_may_say_its_parts_otherwise(tmp_path):
    split = ["Training", "val", "validate", "dev", "TEST", "eval"]
    data = load_npz(save(tmp_path, x=pixels(6, 2, 2), y=[0, 1] * 3, split=split))
    assert data.split.tolist() == ["train", "valid", "valid", "valid", "test", "test"]


def test_label_names_of_one_label_are_its_classes(tmp_path):
    path = save(tmp_path, x=pixels(3, 2, 2), y=np.array([1, -1, 0]), label_names=np.array(["cat", "dog"]))
    data = load_npz(path)
    assert data.space.labels[0].classes == ("cat", "dog")
    assert data.space.decode(data.annotation, None).tolist() == ["dog", None, "cat"]
    with pytest.raises(LabelError, match=r"row 1: 'y' is 7, but there are 2 label_names"):
        load_npz(save(tmp_path, x=pixels(2, 2, 2), y=np.array([1, 7]), label_names=np.array(["cat", "dog"])))
    one = load_npz(save(tmp_path, x=pixels(2, 2, 2), y=np.array([1, 7]), label_names=np.array(["kind"])))
    assert one.space.names == ("kind",)


def test_annotations_need_not_be_read(tmp_path):
    path = save(tmp_path, x=pixels(2, 2, 2), y=np.array(["owl", "hen"]), ids=["a", "b"])
    data = load_npz(path, LabelSpace.multiclass(["cat", "dog"]), annotated=False)
    assert data.ids == ["a", "b"]
    assert not data.annotation.observed.any()


@pytest.mark.parametrize("top", [1, 2, 16])
def test_bytes_on_a_small_scale(tmp_path, top):
    x = np.zeros((3, 4, 4), dtype=np.uint8)
    x[2] = top
    data = load_npz(save(tmp_path, x=x, y=[0, 1, 0], split=["train", "train", "test"]))
    assert data.pixel_max == top
    assert data.x.max() == 1
    assert data.notes == [f"The pixels are bytes from 0 to {top}, which is taken as white."]
    # With a run's white, other bytes are on its scale and not on their own.
    np.testing.assert_allclose(load_npz(save(tmp_path, x=x // 2, y=[0, 1, 0]), white=top).x.max(), top // 2 / top)
    assert load_npz(save(tmp_path, x=x, y=[0, 1, 0]), white=255.0).x.dtype == np.uint8


def test_dark_bytes_keep_their_scale(tmp_path):
    x = np.full((3, 4, 4), 16, dtype=np.uint8)
    x[0, 0, 0] = 17
    for images in (x, np.zeros_like(x)):
        data = load_npz(save(tmp_path, x=images, y=[0, 1, 0]))
        assert (data.pixel_max, data.x.dtype, data.notes) == (255, np.uint8, [])
    assert load_npz(save(tmp_path, **jpegs(x), y=[0, 1, 0])).x.dtype == np.uint8


def test_two_names_for_one_array_are_refused(tmp_path):
    path = save(tmp_path, images=pixels(2, 2, 2), data=pixels(2, 2, 2), y=np.array([0, 1]))
    with pytest.raises(DataError, match=r"pack\.npz: 'images' and 'data' are both 'x': keep one of them"):
        load_npz(path)


def test_an_error_names_the_array_as_the_file_does(tmp_path):
    path = save(tmp_path, images=pixels(3, 2, 2), labels=np.array([0, 1]))
    with pytest.raises(DataError, match=r"'labels' has 2 entries for 3 images"):
        load_npz(path)


def test_without_annotations_a_space_is_needed(tmp_path):
    path = save(tmp_path, x=pixels(3, 2, 2))
    with pytest.raises(DataError, match=r"pack\.npz has no annotations 'y'.*--classes N.*explicit label space"):
        load_npz(path)
    data = load_npz(path, LabelSpace.multilabel(["A", "B"]))
    assert not data.annotation.observed.any()
    assert np.isnan(data.annotation.targets).all()


@pytest.mark.parametrize(
    ("values", "white"),
    [([0, 1], 1), ([0, 0.5], 1), ([0, 16], 16), ([0, 200], 255), ([3, 4095], 4095), ([0, 5e4], 65535)],
)
def test_white_is_the_usual_one_or_the_brightest(tmp_path, values, white):
    """Of all images but the test part's, so that nothing is learned from those; brighter ones are cut off."""
    x = np.array([*values, 1.5 * white]).reshape(3, 1, 1) * np.ones((1, 4, 4))
    data = load_npz(save(tmp_path, x=x, y=[0, 1, 0], split=["train", "valid", "test"]))
    assert data.pixel_max == white
    assert data.x.dtype == np.float32
    np.testing.assert_allclose(data.x[:, 0, 0, 0], [values[0] / white, values[1] / white, 1], rtol=1e-6)
    known = load_npz(save(tmp_path, x=x, y=[0, 1, 0]), white=2 * white)
    np.testing.assert_allclose(known.x, x[:, None] / (2 * white), rtol=1e-6)
    assert known.pixel_max == 2 * white


def test_only_images_have_a_white(tmp_path):
    assert load_npz(save(tmp_path, x=pixels(3, 2, 2), y=[0, 1, 0])).pixel_max == 255
    assert load_npz(save(tmp_path, x=np.ones((3, 2, 2), dtype=bool), y=[0, 1, 0])).pixel_max == 1
    assert load_npz(save(tmp_path, x=np.ones((3, 4)), y=[0, 1, 0])).pixel_max is None


def test_grey_and_colour_jpegs(tmp_path):
    grey = np.full((2, 8, 6), [[[40]], [[200]]], dtype=np.uint8)
    data = load_npz(save(tmp_path, **jpegs(grey), y=np.array([0, 1])))
    assert data.x.shape == (2, 1, 8, 6)
    assert np.abs(data.x[:, 0].astype(int) - grey).max() <= 2
    colour = np.full((2, 8, 6, 3), [250, 10, 10], dtype=np.uint8)
    data = load_npz(save(tmp_path, **jpegs(colour), y=np.array([0, 1])))
    assert data.x.shape == (2, 3, 8, 6)
    assert (data.x[:, 0] > 200).all()
    assert (data.x[:, 1:] < 60).all()


def test_grey_and_colour_in_one_file_are_all_colour(tmp_path):
    grey, colour = np.full((8, 6), 90, dtype=np.uint8), np.full((8, 6, 3), 90, dtype=np.uint8)
    data = load_npz(save(tmp_path, **jpegs([grey, colour]), y=np.array([0, 1])))
    assert data.x.shape == (2, 3, 8, 6)


def test_jpeg_faults(tmp_path):
    good = jpegs(pixels(3, 16, 16))
    y = np.array([0, 1, 0])
    with pytest.raises(DataError, match=r"pack\.npz has 'jpeg' but no 'offsets'.*found jpeg, y"):
        load_npz(save(tmp_path, jpeg=good["jpeg"], y=y))
    with pytest.raises(DataError, match=r"'jpeg' is int64 .*expected bytes"):
        load_npz(save(tmp_path, jpeg=good["jpeg"].astype(np.int64), offsets=good["offsets"], y=y))
    with pytest.raises(DataError, match=r"'offsets' is float64 \[4\]: expected integers"):
        load_npz(save(tmp_path, jpeg=good["jpeg"], offsets=good["offsets"].astype(float), y=y))
    with pytest.raises(DataError, match=r"'offsets' do not rise from 0"):
        load_npz(save(tmp_path, jpeg=good["jpeg"], offsets=good["offsets"][[0, 2, 1, 3]], y=y))
    with pytest.raises(DataError, match=r"the image of row 1 is 4x8 pixels, that of row 0 16x16"):
        load_npz(save(tmp_path, **jpegs([pixels(1, 16, 16)[0], pixels(1, 8, 4)[0]]), y=y[:2]))


def test_a_damaged_jpeg_is_named_by_its_row(tmp_path):
    good = jpegs(pixels(3, 64, 64))
    broken = good["jpeg"].copy()
    broken[good["offsets"][1] : good["offsets"][1] + 4] = 0
    with pytest.raises(DataError, match=r"pack\.npz: the JPEG image of row 1 cannot be decoded"):
        load_npz(save(tmp_path, jpeg=broken, offsets=good["offsets"], y=np.array([0, 1, 0])))
    ends = good["offsets"][1:]
    half = int(good["offsets"][2] + (ends[2] - ends[1]) // 2)
    with pytest.raises(DataError, match=r"row 2 cannot be decoded"):
        load_npz(save(tmp_path, jpeg=good["jpeg"][:half], offsets=[*good["offsets"][:3], half], y=[0, 1, 0]))


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz: there is no such file"):
        load_npz(tmp_path / "gone.npz")
    text = tmp_path / "text.npz"
    text.write_text("image,label\n")
    with pytest.raises(DataError, match=r"text\.npz is not a numpy \.npz file, or it is damaged"):
        load_npz(text)
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"single\.npz holds a single array"):
        load_npz(single)
    path = save(tmp_path, x=pixels(20, 8, 8), y=np.arange(20) % 2)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"pack\.npz is not a numpy \.npz file, or it is damaged"):
        load_npz(path)


def test_a_damaged_array_is_named(tmp_path):
    path = save(tmp_path, x=pixels(20, 8, 8), y=np.arange(20) % 2)
    content = bytearray(path.read_bytes())
    content[600] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"pack\.npz: array 'x' is damaged"):
        load_npz(path)


def test_pickled_objects_are_refused(tmp_path):
    path = save(tmp_path, x=pixels(2, 2, 2), y=np.array(["a", None], dtype=object))
    with pytest.raises(DataError, match=r"pack\.npz: array 'y' holds pickled Python objects"):
        load_npz(path)


def test_a_member_that_is_no_array(tmp_path):
    import zipfile

    path = save(tmp_path, x=pixels(2, 2, 2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y", "not an array")
    with pytest.raises(DataError, match=r"pack\.npz: 'y' is not a numpy array"):
        load_npz(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": pixels(2, 2, 2)}, r"pack\.npz has no images: expected 'x'.*found pictures"),
        ({"x": pixels(2, 2, 2), "x_train": pixels(2, 2, 2)}, r"several layouts, x and x_train \.\.\."),
        ({"x": pixels(3, 2, 2), "y": [0, 1]}, r"pack\.npz: 'y' has 2 entries for 3 images"),
        ({"x": pixels(3, 2, 2), "y": 1}, r"'y' has 1 entries for 3 images"),
        ({"x": pixels(2, 2, 2), "y": [0, 1], "split": ["train"]}, r"'split' has 1 entries for 2 images"),
        ({"x": pixels(2, 2, 2), "y": [0, 1], "ids": ["a"]}, r"'ids' has 1 entries for 2 images"),
        (
            {"x": pixels(2, 2, 2), "y": [0, 1], "ids": [["a"], ["b"]]},
            r"'ids' has shape \[2, 1\]: expected a value",
        ),
        (
            {"x": pixels(2, 2, 2), "y": [0, 1], "split": ["train", "fold2"]},
            r"'split' of row 1 is 'fold2', not one of train",
        ),
        ({"x": np.zeros(4), "y": [0, 1, 0, 1]}, r"pack\.npz: 'x' has shape \[4\]"),
        ({"x": np.array(["a", "b"]).reshape(2, 1), "y": [0, 1]}, r"pack\.npz: inputs of dtype"),
        ({"x": np.full((2, 2), np.nan), "y": [0, 1]}, r"pack\.npz: row 0 .* NaN"),
        ({"x": np.full((2, 4, 4), -1.0), "y": [0, 1]}, r"pack\.npz: pixel values from -1"),
        (
            {"x_train": pixels(2, 4, 4), "x_test": pixels(2, 4, 5)},
            r"'x_test' is uint8 \[2, 4, 5\].*fit 'x_train'",
        ),
        ({"x_train": pixels(2, 4, 4), "y": [0, 1]}, r"annotations \['y'\] without images of the same ending"),
        (
            {"x_train": pixels(1, 4), "y_train": [0], "x_test": pixels(1, 4), "y_test": [[0, 1]]},
            r"different shapes",
        ),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    with pytest.raises((DataError, LabelError), match=message):
        load_npz(save(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": [[1, 0], [0, 1]], "label_names": ["A"]}, r"pack\.npz: 1 label names for 2 columns"),
        ({"y": [[1, 0], [0, 2]]}, r"pack\.npz: label 'label_1', row 1: 2 is ambiguous"),
        ({"y": np.eye(3)[[0, 1]]}, r"pack\.npz: every annotated row .* exactly one 1"),
        ({"y": [-1, -1]}, r"pack\.npz: no image is annotated"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path, arrays, message):
    with pytest.raises(LabelError, match=message):
        load_npz(save(tmp_path, x=pixels(2, 2, 2), **arrays))


@pytest.mark.parametrize(
    "who",
    [
        np.array([17, np.nan, np.nan, 17, 8]),
        np.array([17, None, None, 17, 8]).astype(str),
        np.array(["17", "nan", "", "17", "8"]),
        np.array([b"17", b"", b"nan", b"17", b"8"]),
    ],
)
def test_a_missing_group_is_one_of_its_own(tmp_path, who):
    path = save(tmp_path, x=pixels(5, 2, 2), y=[0, 1, 0, 1, 0], who=who)
    data = load_npz(path, group="who")
    assert data.groups.tolist() == ["17", f"{path}:1", f"{path}:2", "17", "8"]
    assert data.notes == ["2 images have no 'who': each is a group of its own."]
    whole = load_npz(save(tmp_path, x=pixels(2, 2, 2), y=[0, 1], who=[17.0, 8.0]), group="who")
    assert whole.groups.astype(str).tolist() == ["17", "8"]
    assert whole.notes == []


def test_group_that_is_absent(tmp_path):
    path = save(tmp_path, x=pixels(2, 2, 2), y=[0, 1], patient_id=[1, 2], age=[30, 40])
    with pytest.raises(DataError, match=r"no array 'patient' that --group names; other arrays there: patient_id, age"):
        load_npz(path, group="patient")


@needs("nih_cxr14_all_64.npz")
def test_pack_of_chest_images():
    data = load_npz(PACKS / "nih_cxr14_all_64.npz", group="patient_id")
    assert data.x.shape == (2424, 1, 64, 64)
    assert len(data.space) == 14
    assert data.space.binary
    assert data.annotation.observed.all()
    assert {part: int((data.split == part).sum()) for part in ("train", "valid", "test")} == {
        "train": 1670,
        "valid": 213,
        "test": 541,
    }
    assert not set(data.part("train").groups) & set(data.part("test").groups)
    assert data.ids[0] == "00000001_000.png"


@needs("mulan_yeast.npz")
def test_pack_of_feature_vectors():
    data = load_npz(PACKS / "mulan_yeast.npz")
    assert data.x.shape == (2417, 103)
    assert not data.is_image
    assert len(data.space) == 14
    assert len(data.part("test")) == 917


@needs("cifar10_test_jpeg.npz")
def test_pack_of_jpegs():
    data = load_npz(PACKS / "cifar10_test_jpeg.npz")
    assert data.x.shape == (10000, 3, 32, 32)
    assert data.space.labels[0].classes[0] == "airplane"
    assert np.bincount(data.annotation.targets.argmax(axis=1)).tolist() == [1000] * 10
    assert 100 < data.x.mean() < 140


@pytest.mark.parametrize(
    ("brightest", "white"), [(3000, 4095), (4095, 4095), (4096, 8191), (300, 511), (40_000, 65_535)]
)
def test_white_of_whole_numbers_is_the_greatest_of_as_many_bits(tmp_path, brightest, white):
    x = np.random.default_rng(0).integers(0, brightest // 2, (30, 8, 8)).astype(np.uint16)
    x[0, 0, 0] = brightest
    data = load_npz(save(tmp_path, x=x, y=np.arange(30) % 2))
    assert data.pixel_max == white
    np.testing.assert_allclose(data.x[:, 0], x / white, rtol=1e-6)
    # One hot pixel of other images is cut off, and another scale is still refused.
    x[1, 1, 1] = 65_535
    np.testing.assert_allclose(as_images(x, "x", white)[:, 0], np.minimum(x / white, 1), rtol=1e-6)
    np.testing.assert_allclose(as_images(x[1:2], "x", white)[:, 0], np.minimum(x[1:2] / white, 1), rtol=1e-6)
    if white < 30_000:
        for other in (10 * x[1:2].astype(np.int64) * white // brightest, np.concatenate([x, 0 * x[:1] + 3 * white])):
            with pytest.raises(DataError, match="expected 0 to"):
                as_images(other, "x", white)
    dark = np.random.default_rng(0).random((4, 40, 40))
    dark[0, 0, 0] = 3 * white  # which does not make fractions of white bright
    with pytest.raises(DataError, match="expected 0 to"):
        as_images(dark, "x", white)


def test_images_of_a_pack_are_resized(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (300, 16, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", x=x, y=np.arange(300) % 2)
    data = load_dataset(str(tmp_path / "p.npz"), image_size=8)
    assert data.x.shape == (300, 3, 8, 8)
    assert data.x.dtype == np.uint8
    assert data.notes == ["Images of 16x12 pixels (height x width) are resized to 8x8."]
    for i in (0, 299):
        want = np.asarray(Image.fromarray(x[i]).resize((8, 8), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(data.x[i].transpose(1, 2, 0).astype(int), want, atol=1)
    floats = load_npz(tmp_path / "p.npz")
    floats.x = floats.x / np.float32(255)
    small = resized(floats, (8, 8))
    assert small.x.dtype == np.float32
    np.testing.assert_allclose(small.x, data.x / 255, atol=0.003)
    assert resized(floats, (16, 12)) is floats
    np.savez(tmp_path / "v.npz", x=np.zeros((4, 5)), y=[0, 1, 0, 1])
    with pytest.raises(DataError, match=r"v\.npz holds feature vectors, which have no --image-size"):
        load_dataset(str(tmp_path / "v.npz"), image_size=8)
    with pytest.raises(DataError, match="--image-size 0 is not a number of pixels"):
        load_dataset(str(tmp_path / "p.npz"), image_size=0)
