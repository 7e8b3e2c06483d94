import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import BINARY, classes, images, paint, rows_of, table, yes
from packs import PACKS, needs
from taut.data import DataError, load_dataset, named
from taut.data.cache import deep_white
from taut.data.files import find_images
from taut.data.folder import load_folder
from taut.flags import DataFlags
from taut.labels import LabelError, LabelSpace
from taut.sources import load_parts

# --- without a table ----------------------------------------------------------------------------------------


def test_parts_of_an_archive_are_no_classes_beside_a_table(tmp_path):
    folder = images(tmp_path, "HAM_images_part_1/a.png", "HAM_images_part_2/b.png")
    assert load_folder(folder).space.labels[0].classes == ("HAM_images_part_1", "HAM_images_part_2")
    (folder / "metadata.csv").write_text("image_id,dx\na,nv\nb,mel\n")
    said = (
        r"called as parts of an archive: pass a table with --labels \(such as metadata.csv\), or give them other names"
    )
    with pytest.raises(DataError, match=said):
        load_folder(folder)
    assert classes(load_folder(folder, folder / "metadata.csv")) == ["nv", "mel"]
    stages = images(tmp_path / "other", "stage1/a.png", "stage2/b.png")
    (stages / "metadata.csv").write_text("a,b\n")
    assert load_folder(stages).space.labels[0].classes == ("stage1", "stage2")


def test_subfolders_are_classes(tmp_path):
    folder = images(
        tmp_path,
        "cat/1.png",
        "dog/1.PNG",
        "dog/old/2.png",
        "unlabelled/3.png",
        ".hidden/x.png",
        "cat/._1.png",
    )
    (folder / "cat" / "notes.txt").write_text("not an image")
    data = load_folder(folder)
    assert data.ids == ["cat/1.png", "dog/1.PNG", "dog/old/2.png", "unlabelled/3.png"]
    assert classes(data) == ["cat", "dog", "dog", None]
    assert data.space.labels[0].classes == ("cat", "dog")
    assert data.x.shape == (4, 1, 8, 6)
    assert data.name == "images"
    assert data.split is None
    assert data.notes == [
        "Classes are the subfolders: cat, dog.",
        "1 image is in no subfolder of a class: unannotated.",
    ]
    with Image.open(folder / "cat/1.png") as image:
        np.testing.assert_array_equal(data.x[0, 0], np.asarray(image))


def test_folders_of_a_split_above_the_classes(tmp_path):
    folder = images(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "test/dog/4.png", "5.png")
    data = load_folder(folder)
    found = dict(zip(data.ids, zip(data.split, classes(data), strict=True), strict=True))
    assert found == {
        "5.png": ("train", None),
        "test/dog/4.png": ("test", "dog"),
        "train/cat/1.png": ("train", "cat"),
        "train/dog/2.png": ("train", "dog"),
        "val/cat/3.png": ("valid", "cat"),
    }


def test_folders_of_a_split_by_other_names(tmp_path):
    folder = images(tmp_path, "Training/cat/1.png", "Training/dog/2.png", "Testing/dog/3.png", "unlabeled/4.png")
    data = load_folder(folder)
    found = dict(zip(data.ids, zip(data.split, classes(data), strict=True), strict=True))
    assert found == {
        "Testing/dog/3.png": ("test", "dog"),
        "Training/cat/1.png": ("train", "cat"),
        "Training/dog/2.png": ("train", "dog"),
        "unlabeled/4.png": ("train", None),
    }


@pytest.mark.parametrize(
    "names",
    [("training_set", "test_set"), ("seg_train", "seg_test"), ("train", "test1"), ("TRAIN", "Eval"), ("train", "val")],
)
def test_parts_are_known_by_what_others_call_them(tmp_path, names):
    folder = images(tmp_path, *(f"{name}/{kind}/1.png" for name in names for kind in ("cat", "dog")))
    data = load_folder(folder)
    assert data.space.labels[0].classes == ("cat", "dog")
    second = "valid" if "val" in names else "test"
    assert [data.split[data.ids.index(f"{name}/cat/1.png")] for name in names] == ["train", second]
    assert "Classes are the subfolders: cat, dog." in data.notes


@pytest.mark.parametrize("name", ["unannotated", "Un-annotated", "unlabeled_images", "no_label", "unlabeled2017"])
def test_a_folder_of_images_without_annotation_is_no_class(tmp_path, name):
    folder = images(tmp_path / "a", "cat/1.png", "dog/2.png", f"{name}/3.png")
    assert classes(load_folder(folder)) == [
        None if file.startswith(name) else file[:3] for file in load_folder(folder).ids
    ]
    parts = images(tmp_path / "b", "train/cat/1.png", "train/dog/2.png", "test/cat/3.png", f"{name}/4.png")
    data = load_folder(parts)
    assert data.split[data.ids.index(f"{name}/4.png")] == "train"
    assert data.space.labels[0].classes == ("cat", "dog")


def test_the_folder_that_a_flag_calls_unannotated_stands_beside_parts_and_in_them(tmp_path):
    folder = images(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/Unknown/3.png", "test/cat/4.png")
    paint(folder / "unknown" / "5.png")
    with pytest.raises(DataError, match=r"test, train are parts of a split, but .* unknown: .* with --unlabeled"):
        load_folder(folder)
    data = load_folder(folder, unlabeled="Unknown")
    found = dict(zip(data.ids, zip(data.split, classes(data), strict=True), strict=True))
    assert found["train/Unknown/3.png"] == found["unknown/5.png"] == ("train", None)
    assert found["test/cat/4.png"] == ("test", "cat")


def test_subfolders_that_all_have_the_same_subfolders_are_not_guessed(tmp_path):
    folder = images(tmp_path, "north/cat/1.png", "north/dog/2.png", "south/cat/3.png", "south/dog/4.png")
    with pytest.raises(DataError, match=r"images: the subfolders north, south all have the same subfolders cat, dog"):
        load_folder(folder)
    paint(folder / "south" / "cow" / "5.png")
    assert load_folder(folder).space.labels[0].classes == ("north", "south")


def test_parts_below_the_classes(tmp_path):
    folder = images(tmp_path, *(f"{kind}/{part}/1.png" for kind in ("cat", "dog") for part in ("train", "val")))
    paint(folder / "dog" / "Test" / "2.png")
    paint(folder / "unlabeled" / "3.png")
    data = load_folder(folder)
    found = dict(zip(data.ids, zip(data.split, classes(data), strict=True), strict=True))
    assert found == {
        "cat/train/1.png": ("train", "cat"),
        "cat/val/1.png": ("valid", "cat"),
        "dog/Test/2.png": ("test", "dog"),
        "dog/train/1.png": ("train", "dog"),
        "dog/val/1.png": ("valid", "dog"),
        "unlabeled/3.png": ("train", None),
    }
    paint(folder / "dog" / "4.png")  # which is in no part, so that the folders below are none
    assert load_folder(folder).split is None
    for names in (("images", "masks"), ("fold1", "fold_2")):
        other = images(tmp_path / names[0], *(f"{name}/{part}/1.png" for name in names for part in ("train", "val")))
        with pytest.raises(DataError, match="all have the same subfolders train, val"):
            load_folder(other)


def test_the_folder_of_a_part_that_an_archive_has_twice_is_one(tmp_path):
    folder = images(tmp_path, *(f"seg_train/seg_train/{kind}/1.png" for kind in ("cat", "dog")), "seg_test/test/2.png")
    paint(folder / "unlabeled" / "unlabeled" / "3.png")
    data = load_folder(folder)
    found = dict(zip(data.ids, zip(data.split, classes(data), strict=True), strict=True))
    assert found == {
        "seg_test/test/2.png": ("test", None),
        "seg_train/seg_train/cat/1.png": ("train", "cat"),
        "seg_train/seg_train/dog/1.png": ("train", "dog"),
        "unlabeled/unlabeled/3.png": ("train", None),
    }
    vehicles = images(tmp_path / "v", "train/train/1.png", "train/car/2.png", "test/train/3.png", "test/car/4.png")
    assert classes(load_folder(vehicles)) == ["car", "train", "car", "train"]


def test_subfolders_without_an_image_are_told(tmp_path):
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    (folder / "cow").mkdir()
    (folder / ".cache").mkdir()
    assert "Subfolders without an image, which are no classes: cow." in load_folder(folder).notes


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (("Abnormal", "NORMAL"), "Abnormal"),
        (("Parasitized", "Uninfected"), "Parasitized"),
        (("with_mask", "without_mask"), "with_mask"),
        (("cracked", "uncracked"), "cracked"),
        (("Demented", "NonDemented"), "Demented"),
        (("Normal", "Non-normal"), "Non-normal"),
        (("normal", "Non-Normal"), "Non-Normal"),
        (("safe", "unsafe"), "unsafe"),
        (("CO2", "NO2"), "NO2"),
        (("COVID", "non-COVID"), "COVID"),
        (("benign", "malignant"), "malignant"),
        (("cat", "dog"), "dog"),
        (("no", "normal"), "normal"),
    ],
)
def test_of_two_classes_the_one_that_says_no_goes_first(tmp_path, names, positive):
    folder = images(tmp_path, *(f"{name}/1.png" for name in names))
    data = load_folder(folder)
    assert data.space.labels[0].classes[1] == positive
    assert classes(data) == [file.split("/")[0] for file in data.ids]
    rows = "".join(f"{name}/1.png,{name}\n" for name in names)
    assert load_folder(folder, table(tmp_path, "file,kind\n" + rows)).space.labels[0].classes[1] == positive
    np.savez(tmp_path / "pack.npz", x=np.zeros((2, 8, 8), np.uint8), y=np.array(names))
    data = load_dataset(str(tmp_path / "pack.npz"))
    assert data.space.labels[0].classes[1] == positive
    assert classes(data) == list(names)


def test_two_images_of_one_subject_are_told_where_nothing_says_whose_they_are(tmp_path):
    names = [f"{i}_{side}.png" for i in (10, 11, 12) for side in ("left", "right")]
    folder = images(tmp_path, *names, "other.png")
    header = "file,subject,sick\n"
    labels = table(tmp_path, header + "".join(f"{name},{name[:2]},{name[1]}\n" for name in names))
    columns = ["sick"]
    start = "Images such as '10_left.png' and '10_right.png' seem to be of one subject"
    notes = load_folder(folder, labels, label_columns=columns).notes
    assert sum(note.startswith(start) for note in notes) == 1
    notes = load_folder(folder, labels, label_columns=columns, group="subject").notes
    assert not any("of one subject" in note for note in notes)
    alone = images(tmp_path / "b", *(f"{kind}/{i}_left.png" for i in range(3) for kind in ("cat", "dog")), "1_l.png")
    assert not any("of one subject" in note for note in load_folder(alone).notes)


def test_a_class_may_be_called_as_a_part_is_but_not_two(tmp_path):
    vehicles = images(tmp_path / "a", "car/1.png", "train/2.png", "unlabelled/3.png")
    assert classes(load_folder(vehicles)) == ["car", "train", None]
    mixed = images(tmp_path / "b", "Train/cat/1.png", "Test/cat/2.png", "extra/cat/3.png")
    with pytest.raises(DataError, match="Test, Train are parts of a split, but beside them there is extra"):
        load_folder(mixed)


def test_what_is_white_in_deep_images_is_told(tmp_path):
    folder = tmp_path / "wells"
    for i, most in enumerate((3000, 2500, 2000)):
        place = folder / ("cat", "dog")[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 6), most, dtype=np.uint16) + np.arange(6, dtype=np.uint16)).save(place)
    data = load_folder(folder)
    assert data.x[data.ids.index("cat/0.png")].min() == round(255 * 3000 / 4095)
    assert data.notes[-1] == "3 images have 16 bits a pixel, of which 4,095 is taken as white."
    assert data.pixel_max == 4095
    # On the scale of a training set, if it had one of more than bytes, which say nothing of it.
    for white, bits in ((65535.0, 16), (4095.0, 12), (1023.0, 10), (255.0, 12), (1.0, 12)):
        data = load_folder(folder, white=white)
        assert data.pixel_max == 2**bits - 1
        assert data.x[data.ids.index("cat/0.png")].min() == min(255, round(255 * 3000 / (2**bits - 1)))
    # What is for testing decides nothing.
    rows = ["cat/0.png,cat,train", "cat/2.png,cat,train", "dog/1.png,dog,train", "bright.png,cat,test"]
    labels = table(tmp_path, "\n".join(["file,kind,part", *rows, ""]))
    Image.fromarray(np.full((8, 6), 60000, dtype=np.uint16)).save(folder / "bright.png")
    data = load_folder(folder, labels, split_column="part")
    assert data.pixel_max == 4095
    assert data.x[data.ids.index("bright.png")].min() == 255
    assert load_folder(folder, labels, label_columns=["kind"]).pixel_max == 65535
    # Beside images of bytes too.
    paint(folder / "dog" / "9.png", 100)
    (folder / "bright.png").unlink()
    mixed = load_folder(folder)
    assert mixed.pixel_max == 4095
    assert mixed.x[mixed.ids.index("dog/9.png")].max() == 100
    assert "3 images have 16 bits a pixel, of which 4,095 is taken as white." in mixed.notes


@pytest.mark.parametrize(("count", "speck", "white"), [(40, 60_000, 4095), (40, 20_000, 32_767), (10, 60_000, 65_535)])
def test_one_image_with_a_bright_speck_does_not_make_all_others_black(tmp_path, count, speck, white):
    paths = [tmp_path / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        pixels = np.full((9, 9), 3000 - i, dtype=np.uint16)
        pixels[:3, :3] = speck if i == 7 else 3000
        Image.fromarray(pixels).save(path)
    assert deep_white(paths) == white


@pytest.mark.parametrize(("side", "hot", "white"), [(120, 1, 4095), (120, 2, 65_535), (500, 2, 4095), (20, 1, 65_535)])
def test_a_hot_pixel_of_a_deep_image_is_not_its_white(tmp_path, side, hot, white):
    for name in ("cat/1.png", "dog/2.png"):
        pixels = np.random.default_rng(ord(name[0])).integers(100, 3000, (side, side)).astype(np.uint16)
        pixels.ravel()[::side][:hot] = 65_535
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path)
    data = load_folder(tmp_path / "images", image_size=side)
    assert data.pixel_max == white
    assert data.x.max() == 255
    if white < 65_535:
        assert data.x[0].mean() > 80


def test_files_that_no_table_can_name_are_left_out(tmp_path):
    folder = images(tmp_path / "all", "cat/1.png", "dog/2.png")
    try:
        shutil.copy(folder / "cat" / "1.png", os.fsencode(folder / "cat") + b"/M\xfcller.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    data = load_folder(folder)
    assert data.ids == ["cat/1.png", "dog/2.png"]
    assert r"Left out: 1 file with a name that is not UTF-8, such as 'cat/M\xfcller.png'." in data.notes


def test_a_link_to_the_unannotated_is_no_class(tmp_path):
    folder = images(tmp_path / "all", "cat/1.png", "dog/2.png")
    rest = images(tmp_path / "rest", "3.png")
    (folder / "extra").symlink_to(rest)
    for named_so in (folder / "extra", rest):
        data = load_folder(folder, unannotated=named_so)
        assert data.space.labels[0].classes == ("cat", "dog")
        assert len(data) == 3
        assert not any("without an image" in note for note in data.notes)


def test_folders_that_may_not_be_read_are_told(tmp_path, monkeypatch):
    folder = images(tmp_path / "all", "cat/1.png", "dog/2.png", "dog/closed/3.png")
    usual = os.scandir

    def scandir(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return usual(place)

    monkeypatch.setattr(os, "scandir", scandir)
    data = load_folder(folder)
    assert data.ids == ["cat/1.png", "dog/2.png"]
    said = f"Left out: 1 folder that cannot be read, such as {folder / 'dog' / 'closed'} (Permission denied)."
    assert said in data.notes


def test_accents_are_the_same_however_they_are_written(tmp_path):
    composed, apart = (unicodedata.normalize(form, "M\u00fcller") for form in ("NFC", "NFD"))
    folder = images(tmp_path / "all", f"{apart}/1.png", "Meier/1.png", f"{apart}_2.png", "b.png")
    rows = f"{composed}/1.png,1\nMeier/1.png,0\n{composed}_2.png,1\nb.png,0\n"
    np.testing.assert_equal(yes(load_folder(folder, table(tmp_path, f"file,A\n{rows}"))), [[1], [0], [1], [0]])
    bare = images(tmp_path / "bare", f"{apart}_2.png", "b.png")
    np.testing.assert_equal(yes(load_folder(bare, table(tmp_path, f"id,A\n{composed}_2,1\nb,0\n"))), [[1], [0]])


def test_links_to_folders_are_followed_once(tmp_path):
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    paint(tmp_path / "elsewhere" / "3.png")
    (folder / "cow").symlink_to(tmp_path / "elsewhere")
    (folder / "dog" / "loop").symlink_to(folder)
    assert load_folder(folder).ids == ["cat/1.png", "cow/3.png", "dog/2.png"]


def test_without_classes_a_space_is_needed(tmp_path):
    folder = images(tmp_path, "1.png", "2.png")
    table(folder, "file,A\n1.png,1\n", "here.csv")
    with pytest.raises(DataError, match=r"no image is annotated.*--labels \(such as here\.csv\), or --classes N"):
        load_folder(folder)
    data = load_folder(folder, space=BINARY)
    assert not data.annotation.observed.any()
    assert data.annotation.observed.shape == (2, 2)


def test_subfolders_that_do_not_fit_the_space(tmp_path):
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    assert classes(load_folder(folder, space=LabelSpace.multiclass(["dog", "cow", "cat"]))) == ["cat", "dog"]
    with pytest.raises(LabelError, match=r"images: subfolders dog are not among the classes of 'label': cat, cow"):
        load_folder(folder, space=LabelSpace.multiclass(["cat", "cow"]))
    with pytest.raises(DataError, match=r"subfolders cat, dog are classes of one label, but 2 are asked for"):
        load_folder(folder, space=BINARY)


def test_number_named_subfolders_fit_number_classes(tmp_path):
    folder = images(tmp_path, "0/1.png", "2/2.png")
    assert classes(load_folder(folder, space=LabelSpace.multiclass(3))) == [0, 2]


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"gone: there is no such folder"):
        load_folder(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no images \(\.png, \.jpg"):
        load_folder(tmp_path / "empty")
    with pytest.raises(DataError, match=r"one subfolder for a class, 'cat': at least two"):
        load_folder(images(tmp_path, "cat/1.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "who"}, r"--group is for columns of a table: pass the table with --labels"),
        (
            {"path_column": "a", "joined_column": "b"},
            r"--path-column, --joined-column is for columns of a table",
        ),
        ({"label_columns": ["A"], "split_column": "b"}, r"--label-columns, --split-column is for columns"),
        ({"image_size": 0}, r"--image-size 0 is not a number of pixels"),
        ({"channels": 2}, r"--channels 2 is neither 1"),
    ],
)
def test_options_that_say_nothing_here(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        load_folder(images(tmp_path, "cat/1.png", "dog/2.png"), **options)


# --- a folder of further images without annotation ---------------------------------------------------------


def test_a_folder_of_unannotated_images_is_added_to_class_folders(tmp_path):
    folder = images(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png")
    more = tmp_path / "plate 7"
    paint(more / "new" / "5.png")
    paint(more / "train" / "cat" / "1.png", value=9)  # another image of a name that is there
    shutil.copy(folder / "train" / "dog" / "2.png", more / "copy of train.png")
    shutil.copy(folder / "test" / "cat" / "3.png", more / "copy of test.png")
    report = tmp_path / "skipped.csv"
    data = load_folder(folder, unannotated=more, skipped=report)
    found = dict(zip(data.ids, zip(data.split, classes(data), strict=True), strict=True))
    assert found == {
        "train/cat/1.png": ("train", "cat"),
        "train/dog/2.png": ("train", "dog"),
        "test/cat/3.png": ("test", "cat"),
        "test/dog/4.png": ("test", "dog"),
        "new/5.png": ("train", None),
        "plate 7/train/cat/1.png": ("train", None),
    }
    assert (data.x[data.ids.index("plate 7/train/cat/1.png")] == 9).all()
    assert {row["file"] for row in rows_of(report)} == {"copy of train.png", "copy of test.png"}
    assert f"4 images of {more} added: unannotated." in data.notes
    # One that is in the folder is no class, and one that has the folder in it adds what is not there.
    paint(folder / "train" / "pool" / "6.png")
    data = load_folder(folder, unannotated=folder / "train" / "pool")
    assert data.space.labels[0].classes == ("cat", "dog")
    assert classes(data)[data.ids.index("6.png")] is None
    above = load_folder(folder / "train", unannotated=folder)
    assert len(above) == 5
    assert above.ids[-2:] == ["test/cat/3.png", "test/dog/4.png"]


def test_a_folder_of_unannotated_images_is_added_to_a_table(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "pool/d.png", "pool/e.png")
    labels = table(tmp_path, "file,A,age,part\na.png,1,50,train\nb.png,0,60,test\npool/d.png,1,70,train\n")
    flags = {"split_column": "part", "auxiliary": ["age"], "blank": "negative"}
    alone = load_dataset(str(labels), images=folder, unannotated=folder / "pool", **flags)
    assert alone.ids == ["a.png", "b.png", "pool/d.png", "e.png"]
    assert yes(alone)[:3] == [[1], [0], [1]]
    assert np.isnan(yes(alone)[3][0])
    assert alone.split.tolist() == ["train", "test", "train", "train"]
    paint(tmp_path / "more" / "c.png", value=9)
    data = load_dataset(str(folder), labels=labels, unannotated=tmp_path / "more", **flags)
    assert data.ids == ["a.png", "b.png", "pool/d.png", "c.png", "pool/e.png", "more/c.png"]
    assert len(data.part("test")) == 1
    split = load_dataset(str(folder), labels=labels, unannotated=tmp_path / "more", split_fractions="0.4,0.3,0.3")
    assert split.split[split.ids.index("more/c.png")] == "train"


@pytest.mark.parametrize(
    ("source", "place", "message"),
    [
        ("images", "gone", r"--unannotated .*gone: there is no such folder"),
        ("images", "empty", r"--unannotated .*empty has no images"),
        ("digits", "empty", r"digits does not take --unannotated"),
        ("x.npy", "empty", r"x\.npy does not take --unannotated"),
    ],
)
def test_where_no_unannotated_images_can_be_added(tmp_path, source, place, message):
    images(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        load_dataset(source if source == "digits" else str(tmp_path / source), unannotated=tmp_path / place)


# --- which image a row means --------------------------------------------------------------------------------


def test_where_images_are_looked_for(tmp_path):
    folder = images(tmp_path, "deep/a.png", "deep/b.png", "c.png", "x/y/d.png", "one/same.png", "two/same.png", "e.png")
    text = "file,A\n./deep/a.png,1\nimages/deep/b.png,0\nroot/of/x/y/d.png,1\nc,0\nsame.png,1\nother\\e.png,0\n"
    data = load_folder(folder, table(tmp_path, text), path_column="file")
    assert data.ids[:5] == ["deep/a.png", "deep/b.png", "x/y/d.png", "c.png", "e.png"]
    np.testing.assert_equal(yes(data)[:6], [[1], [0], [1], [0], [0], [np.nan]])
    assert data.ids[5:] == ["one/same.png", "two/same.png"]
    assert data.notes[0] == "Left out: 1 row has the name of several images."


def test_absolute_paths_of_a_table_are_used_as_they_are(tmp_path, monkeypatch):
    folder, home = images(tmp_path, "a.png", "b/a.png", "c.png"), tmp_path / "home"
    paint(home / "near.png")
    cells = [folder / "a.png", folder / "b" / ".." / "b" / "a.png", home / "near.png"]
    labels = table(home, "file,A\n" + "".join(f"{cell},{i % 2}\n" for i, cell in enumerate(cells)))
    walked = []
    monkeypatch.setattr(named, "find_images", lambda place, notes=None: walked.append(place) or find_images(place))
    data = load_dataset(str(labels))
    assert data.ids == [str(folder / "a.png"), str(folder / "b" / "a.png"), "near.png"]
    assert yes(data) == [[0], [1], [0]]
    assert not walked
    with Image.open(folder / "b" / "a.png") as image:
        np.testing.assert_array_equal(data.x[1, 0], np.asarray(image))
    # Beside names of the table's folder, and where one is gone.
    table(home, f"file,A\n{folder / 'c.png'},1\nnear.png,0\n{folder / 'gone.png'},1\n")
    data = load_dataset(str(labels))
    assert data.ids == [str(folder / "c.png"), "near.png"]
    assert walked == [home]
    # A folder that is named has the images, such as smaller ones under the same names.
    paint(tmp_path / "small" / "c.png")
    table(home, f"file,A\n{folder / 'c.png'},1\n")
    assert load_dataset(str(labels), images=tmp_path / "small").ids == ["c.png"]


@pytest.mark.parametrize(
    ("cells", "beside", "message"),
    [
        (
            ["/gone/a.png", "/gone/b.png"],
            (),
            r"home has no images .*: name the folder of .* with --images FOLDER",
        ),
        (
            ["/gone/a.png", "x/b.png"],
            ("z.png",),
            r"no row names .* images are z\.png: name .* with --images FOLDER",
        ),
        (["a1", "b1"], ("z.png",), r"name it with --path-column; .*; or name the folder of .* with --images FOLDER"),
    ],
)
def test_the_flag_for_images_elsewhere_is_named(tmp_path, cells, beside, message):
    (tmp_path / "home").mkdir()
    for name in beside:
        paint(tmp_path / "home" / name)
    labels = table(tmp_path / "home", "file,A\n" + "".join(f"{cell},1\n" for cell in cells))
    with pytest.raises(DataError, match=message):
        load_dataset(str(labels))


def test_a_bare_name_does_not_take_an_image_that_a_row_names_in_full(tmp_path):
    folder = images(tmp_path, "cat/1.png", "cow/2.png")
    text = "file,kind\ncat/1.png,cat\ndog/1.png,dog\npig/2.png,pig\nhen/2.png,hen\n"
    data = load_folder(folder, table(tmp_path, text))
    assert data.ids == ["cat/1.png", "cow/2.png"]
    assert classes(data) == ["cat", None]
    assert "3 rows name images that are not there" in data.notes[0]


def test_letters_and_endings_that_differ(tmp_path):
    folder = images(tmp_path, "0.PNG", "Scan.png", "3.jpg", "one/4.png", "two/4.jpg", "B.png")
    text = "file,A\n0.png,1\nscan.JPG,0\n3.tif,1\n4.bmp,0\n5.jpg,1\nb.png,0\nb.jpg,1\n"
    data = load_folder(folder, table(tmp_path, text))
    found = dict(zip(data.ids, yes(data), strict=True))
    assert {name: found[name] for name in ("0.PNG", "Scan.png", "3.jpg", "B.png")} == {
        "0.PNG": [1],
        "Scan.png": [0],
        "3.jpg": [1],
        "B.png": [0],
    }
    left = "2 rows name images that are not there, 1 row has the name of several images"
    assert data.notes[0] == f"Left out: {left}."


def test_a_column_of_names_without_endings_is_found(tmp_path):
    folder = images(tmp_path, *(f"{name}.png" for name in ("10a", "11b", "12c", "1", "2")))
    data = load_folder(folder, table(tmp_path, "diagnosis,id_code\n1,10a\n2,12c\n1,99z\n"))
    assert data.ids[:2] == ["10a.png", "12c.png"]
    assert classes(data)[:2] == ["1", "2"]
    assert "Images are named by 'id_code', without the ending of their files." in data.notes
    numbers = images(tmp_path / "n", *(f"{i}.png" for i in range(6)))
    rows = "".join(f"{i % 3},{i}\n" for i in range(6))
    data = load_folder(numbers, table(tmp_path, "grade,number\n" + rows))
    assert (data.ids[1], classes(data)[1]) == ("1.png", "1")
    rows = "".join(f"{i},{5 - i}\n" for i in range(6))
    with pytest.raises(DataError, match="no column of the table looks like image files"):
        load_folder(numbers, table(tmp_path, "one,two\n" + rows))


def test_an_index_that_was_written_to_a_table_names_no_images(tmp_path):
    # Numbers of more than four digits are names of images without a doubt.
    folder = images(tmp_path, *(f"{10_000 + i}.png" for i in range(1, 31)))
    lines = "\n".join(f"{10_000 + i - 1},{10_000 + i},{i % 2}" for i in range(1, 31))
    for name in ("Unnamed: 0", "number"):
        labels = table(tmp_path, f"{name},id,sick\n{lines}\n")
        data = load_folder(folder, labels, label_columns=["sick"])
        assert [int(name.split(".")[0]) % 2 for name in data.ids] == data.annotation.targets[:, 1].tolist()
    with pytest.raises(DataError, match="columns number, other all name images: say which is meant with --path-column"):
        load_folder(folder, table(tmp_path, f"number,other,sick\n{lines}\n"))


def test_of_several_columns_of_files_that_which_names_most_is_taken(tmp_path):
    folder = images(tmp_path, "1_left.png", "1_right.png", "2_left.png", "2_right.png")
    sides = [(i, side, int(side == "right")) for i in (1, 2) for side in ("left", "right")]
    rows = "".join(f"{i}_left.png,{i}_right.png,{sick},{i}_{side}.png\n" for i, side, sick in sides)
    data = load_folder(folder, table(tmp_path, f"left,right,sick,file\n{rows}"), label_columns=["sick"])
    assert list(data.ids) == ["1_left.png", "1_right.png", "2_left.png", "2_right.png"]
    assert yes(data) == [[0], [1], [0], [1]]
    assert "Images are named by 'file', and not by left, right." in data.notes


def test_names_that_several_files_have_are_told_from_missing_ones(tmp_path):
    folder, skipped = images(tmp_path, "part_1/a.png", "part_2/a.png", "part_1/b.png"), tmp_path / "skipped.csv"
    data = load_folder(folder, table(tmp_path, "file,sick\na,1\nb,0\nc,1\n"), path_column="file", skipped=skipped)
    assert [row["reason"] for row in rows_of(skipped)] == ["several images have this name", "no such image"]
    assert data.annotation.observed[:, 0].sum() == 1
    sentence = "'a' of column 'file' is the name of part_1/a.png, part_2/a.png: keep one of them"
    with pytest.raises(DataError, match=sentence):
        load_folder(folder, table(tmp_path, "file,sick\na,1\na.png,0\n"), path_column="file")


def test_a_path_that_is_not_there_is_no_name_of_several(tmp_path):
    folder, skipped = images(tmp_path, "p1/front.png", "p2/front.png", "p3/side.png"), tmp_path / "skipped.csv"
    load_folder(folder, table(tmp_path, "file,sick\np9/front.png,1\np3/side.png,0\n"), skipped=skipped)
    assert [row["reason"] for row in rows_of(skipped)] == ["no such image"]


def test_a_folder_of_images_beside_classes_is_none(tmp_path):
    files = [f"train/{name}/images/{i}.png" for name in ("cat", "dog") for i in range(2)]
    data = load_folder(images(tmp_path, *files, "val/images/7.png", "test/images/8.png"))
    assert data.space.labels[0].classes == ("cat", "dog")
    assert not data.annotation.observed[data.split != "train"].any()
    assert "2 images are in no subfolder of a class: unannotated." in data.notes


def test_a_table_without_a_header_is_refused(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    with pytest.raises(DataError, match=r"labels\.csv: the table has no header: its first row names .* 'a\.png'"):
        load_folder(folder, table(tmp_path, "a.png,cat\nb.png,dog\nc.png,cat\n"))


def test_a_split_column_says_its_parts_otherwise_and_is_told_where_it_is_not_used(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    labels = table(tmp_path, "file,fold,A\na.png,Training,1\nb.png,val,0\nc.png,TEST,1\nd.png,validate,0\n")
    data = load_folder(folder, labels, split_column="fold")
    assert data.split.tolist() == ["train", "valid", "test", "valid"]
    assert not any("--split-column" in note for note in data.notes)
    hint = "Column 'fold' says train, valid, test but is not used: --split-column fold reads it as the split."
    assert hint in load_folder(folder, labels).notes
    (tmp_path / "test.txt").write_text("c.png\n")
    assert hint not in load_folder(folder, labels, test_list=tmp_path / "test.txt").notes
    assert hint not in load_folder(folder, labels, label_columns=["fold"]).notes


@pytest.mark.parametrize("ending", [".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".jfif", ".jp2"])
def test_other_kinds_of_images(tmp_path, ending):
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    Image.new("1" if ending == ".pbm" else "L", (6, 8), 1).save(folder / "dog" / f"3{ending}")
    assert load_folder(folder).ids == ["cat/1.png", "dog/2.png", f"dog/3{ending}"]


def test_a_table_of_other_images(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file,A\nscan_1.png,1\nscan_2.png,0\n")
    message = r"labels\.csv: no row names an image in .*'file' says scan_1\.png, scan_2\.png, but .* a\.png, b\.png"
    with pytest.raises(DataError, match=message):
        load_folder(folder, labels)


def test_images_without_a_row_are_unannotated(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    text = "file,who,part,A\nb.png,7,test,1\na.png,,train,0\n"
    data = load_folder(folder, table(tmp_path, text), group="who", split_column="part")
    assert data.ids == ["b.png", "a.png", "c.png"]
    np.testing.assert_equal(yes(data), [[1], [0], [np.nan]])
    assert data.split.tolist() == ["test", "train", "train"]
    assert data.groups.tolist() == ["7", f"{folder}:a.png", f"{folder}:c.png"]
    assert "1 image file is named by no row: unannotated." in data.notes
    assert "2 images have no 'who': each is a group of its own." in data.notes


# --- what is left out ---------------------------------------------------------------------------------------


def test_everything_left_out_is_listed(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "bad.png", "cut.jpg", "lonely.png")
    (folder / "bad.png").write_text("not an image")
    whole = paint(folder / "cut.jpg", size=(60, 60)).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(folder / "a.png", folder / "copy.png")
    (folder / "lonely.png").write_bytes(b"")
    text = (
        "file,A\na.png,1\ngone.png,1\n,0\nbad.png,1\ncut.jpg,0\n"  # rows 2 to 6
        "b.png,1\nb.png,1.0\nc.png,0\n\nc.png,1\n./a.png,1\n"  # rows 7 to 12, row 10 blank
    )
    report = tmp_path / "reports" / "skipped.csv"
    data = load_folder(folder, table(tmp_path, text), skipped=report)
    assert data.ids == ["a.png", "b.png"]
    assert data.notes[0] == (
        "Left out (listed in skipped.csv): 1 row names an image that is not there, 1 row names no image, "
        "3 images cannot be read, 3 rows or files repeat an image, 2 rows or files contradict each other."
    )
    found = {(entry["row"], entry["file"]): entry["reason"] for entry in rows_of(report)}
    assert found.pop(("6", "cut.jpg")).startswith("image file is truncated")
    assert found == {
        ("3", "gone.png"): "no such image",
        ("4", ""): "no file name",
        ("5", "bad.png"): "it is not an image that Pillow knows",
        ("8", "b.png"): "the same image as row 7",
        ("9", "c.png"): "contradicts: row 9, row 11",
        ("11", "c.png"): "contradicts: row 9, row 11",
        ("12", "./a.png"): "the same image as row 2",
        ("", "copy.png"): "the same image as row 2",
        ("", "lonely.png"): "it is not an image that Pillow knows",
    }


def test_rows_of_one_image_with_another_group_contradict(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file,who,A\na.png,1,1\na.png,2,1\nb.png,1,0\nb.png,1,\n")
    data = load_folder(folder, labels, group="who")
    assert data.ids == ["b.png"]
    assert "1 row or file repeats an image, 2 rows or files contradict each other" in data.notes[0]


def test_a_row_that_leaves_the_group_blank_has_that_of_the_others_of_its_image(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    lines = ["a.png,p1,,", "b.png,p1,0,", "a.png,,1,", "c.png,p2,1,", "c.png,,,1"]
    data = load_folder(folder, table(tmp_path, "\n".join(["file,who,A,B", *lines, ""])), group="who")
    assert data.ids == ["b.png", "a.png", "c.png"]
    assert data.groups.tolist() == ["p1", "p1", "p2"]
    np.testing.assert_equal(yes(data), [[0, np.nan], [1, np.nan], [1, 1]])


def test_rows_that_annotate_other_cells_of_one_image_are_one(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    lines = ["a.png,1,,", "a.png,,0,", "b.png,,0,-1", "b.png,1,1,", "c.png,,,1", "c.png,,,"]
    report = tmp_path / "skipped.csv"
    data = load_folder(folder, table(tmp_path, "\n".join(["file,A,B,C", *lines, ""])), skipped=report)
    assert data.ids == ["a.png", "c.png"]  # the rows of b.png differ in B, and agree on nothing
    np.testing.assert_equal(yes(data), [[1, 0, np.nan], [np.nan, np.nan, 1]])
    np.testing.assert_array_equal(data.cells, [[1, 0, -2], [-2, -2, 1]])
    assert [(entry["row"], entry["reason"]) for entry in rows_of(report)] == [
        ("3", "the same image as row 2"),
        ("4", "contradicts: row 4, row 5"),
        ("5", "contradicts: row 4, row 5"),
        ("7", "the same image as row 6"),
    ]


def test_cells_that_readers_differ_in_are_uncertain(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    lines = ["a.png,1,0,0", "a.png,1,1,0", "a.png,1,0,", "b.png,0,0,0", "b.png,0,0,0", "c.png,1,0,1", "c.png,0,1,1"]
    labels = table(tmp_path, "\n".join(["file,A,B,C", *lines, ""]))
    data = load_folder(folder, labels)
    assert data.ids == ["a.png", "b.png", "c.png"]
    np.testing.assert_equal(yes(data), [[1, np.nan, 0], [0, 0, 0], [np.nan, np.nan, 1]])
    np.testing.assert_array_equal(data.cells, [[1, -3, 0], [0, 0, 0], [-3, -3, 1]])
    assert "2 images have rows that differ in some yes/no cells: these cells are uncertain." in data.notes
    assert "3 cells are −1 (uncertain): taken as unannotated." in data.notes
    soft = load_folder(folder, labels, uncertain="soft=0.4", blank="negative")
    np.testing.assert_allclose(soft.annotation.targets[:, 3], [0.4, 0, 0.4], rtol=1e-6)
    mixed = table(tmp_path, "file,A,B,kind\na.png,1,0,x\na.png,1,1,y\nb.png,0,0,x\nc.png,1,1,y\n", "mixed.csv")
    assert load_folder(folder, mixed, label_columns=["A", "B", "kind"]).ids == ["b.png", "c.png"]  # nor x nor y


def test_copies_of_a_file_in_class_folders(tmp_path):
    folder = images(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png", "unlabeled/4.png")
    shutil.copy(folder / "cat/1.png", folder / "dog/1.png")
    shutil.copy(folder / "dog/3.png", folder / "unlabeled/3.png")
    shutil.copy(folder / "unlabeled/4.png", folder / "unlabeled/5.png")
    report = tmp_path / "skipped.csv"
    data = load_folder(folder, skipped=report)
    assert data.ids == ["cat/2.png", "dog/3.png", "unlabeled/4.png"]
    assert [(entry["file"], entry["reason"]) for entry in rows_of(report)] == [
        ("cat/1.png", "contradicts: cat/1.png, dog/1.png"),
        ("dog/1.png", "contradicts: cat/1.png, dog/1.png"),
        ("unlabeled/3.png", "the same image as dog/3.png"),
        ("unlabeled/5.png", "the same image as unlabeled/4.png"),
    ]


def test_copies_in_two_parts_of_a_split_stay(tmp_path):
    folder = images(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "test/cat/4.png")
    for copy in ("test/cat/1.png", "test/cat/5.png", "train/cat/6.png"):
        shutil.copy(folder / "train/cat/1.png", folder / copy)
    shutil.copy(folder / "train/dog/2.png", folder / "test/cat/2.png")
    data = load_folder(folder)
    assert data.ids == ["test/cat/1.png", "test/cat/4.png", "train/cat/1.png", "train/dog/3.png"]
    assert "2 rows or files repeat an image, 2 rows or files contradict each other" in data.notes[0]
    with pytest.raises(DataError, match=r"1 images are, pixel for pixel, .* test/cat/1\.png.*--leakage"):
        load_parts(DataFlags(str(folder)))
    training, testing = load_parts(DataFlags(str(folder), leakage="report"))
    assert (len(training), len(testing)) == (2, 2)
    assert "1 images are, pixel for pixel, in both" in training.notes[-1]
    text = "file,part,A\ntrain/cat/1.png,train,1\ntest/cat/1.png,test,1\ntrain/dog/2.png,train,0\n"
    rows = load_folder(folder, table(tmp_path, text), split_column="part", others=False)
    assert rows.ids == ["train/cat/1.png", "test/cat/1.png", "train/dog/2.png"]


@pytest.mark.parametrize("cells", [["17.0", "", "8.0"], ["17", "", "8"]])
def test_whole_numbers_that_shared_a_column_with_blanks_are_the_same_groups(tmp_path, cells):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    rows = "".join(f"{name}.png,{cell},1\n" for name, cell in zip("abc", cells, strict=True))
    data = load_folder(folder, table(tmp_path, "file,who,A\n" + rows), group="who")
    assert data.groups.tolist() == ["17", f"{folder}:b.png", "8"]


def test_long_images_are_told_how_to_keep_their_shape(tmp_path):
    folder = images(tmp_path, "a/1.png", "b/2.png", size=(10, 90))
    assert "resized to 64x64; --image-size 10x90 keeps their shape." in load_folder(folder).notes[-1]
    assert load_folder(folder, image_size=(10, 90)).x.shape == (2, 1, 10, 90)
    for other in ((90, 10), (10, 40)):
        paint(folder / "b" / "3.png", size=other)
        assert "keeps their shape" not in load_folder(folder).notes[-1]
    large = images(tmp_path / "large", "a/1.png", "b/2.png", size=(200, 800))
    assert "; --image-size 64x256 keeps their shape." in load_folder(large).notes[-1]


def test_a_report_of_nothing(tmp_path):
    report = tmp_path / "skipped.csv"
    report.write_text("from an earlier run")
    data = load_folder(images(tmp_path, "cat/1.png", "dog/2.png"), skipped=report)
    assert rows_of(report) == []
    assert data.notes == ["Classes are the subfolders: cat, dog."]


def test_nothing_remains(tmp_path):
    folder = images(tmp_path, "a.png")
    labels = table(tmp_path, "file,A\na.png,1\na.png,0\n")
    report = tmp_path / "skipped.csv"
    with pytest.raises(DataError, match=r"images: no image remains. Left out .*2 rows or files contradict each other"):
        load_folder(folder, labels, skipped=report)
    assert len(rows_of(report)) == 2
    (folder / "a.png").write_text("not an image")
    with pytest.raises(DataError, match=r"images: no image remains. Left out: 2 images cannot be read"):
        load_folder(folder, labels)
    cut = paint(tmp_path / "cut" / "a.jpg", size=(60, 60))
    cut.write_bytes(cut.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"cut: no image remains. Left out: 1 image cannot be read"):
        load_folder(cut.parent, space=BINARY)


# --- load_dataset -------------------------------------------------------------------------------------------


def test_every_kind_of_source(tmp_path):
    assert load_dataset("digits").x.shape == (1797, 1, 8, 8)
    assert load_dataset("digit-grid").space.names[0] == "has_0"
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    labels = table(tmp_path, "p,who,part,A,B\na.png,1,train,1,0\nb.png,2,test,0,\ngone.png,3,test,1,1\n")
    report = tmp_path / "skipped.csv"
    data = load_dataset(
        str(folder),
        labels=labels,
        group="who",
        image_size=4,
        label_columns=["B"],
        split_column="part",
        skipped=report,
    )
    assert data.x.shape == (3, 1, 4, 4)
    assert data.space.names == ("B",)
    assert data.groups.tolist() == ["1", "2", f"{folder}:c.png"]
    assert [entry["file"] for entry in rows_of(report)] == ["gone.png"]
    pack = tmp_path / "pack.npz"
    np.savez(pack, x=np.zeros((3, 4, 4), dtype=np.uint8), y=[0, 1, 5], who=["a", "a", "b"])
    data = load_dataset(str(pack), group="who", unlabeled=5)
    assert data.annotation.observed[:, 0].tolist() == [True, True, False]
    assert data.groups.tolist() == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "nonsense",
            {},
            r"'nonsense' is neither one of digits, digit-grid, mnist, svhn, cifar10, nor a \.npz, \.npy or "
            "Parquet file, nor a folder of images, nor a CSV table",
        ),
        ("gone.npz", {}, r"gone\.npz: there is no such file"),
        ("digits", {"labels": Path("labels.csv"), "group": "who"}, r"digits does not take --labels, --group"),
        ("mnist", {"image_size": 32}, r"mnist does not take --image-size"),
        ("gone.npz", {"image_size": 32, "joined_column": "f"}, r"gone\.npz does not take --joined-column"),
    ],
)
def test_sources_and_options_that_do_not_fit(source, options, message):
    with pytest.raises(DataError, match=message):
        load_dataset(source, **options)


# --- real data ----------------------------------------------------------------------------------------------


@needs("nih_originals", "nih_cxr14_all_64.npz")
def test_originals_of_chest_images(tmp_path):
    folder = PACKS / "nih_originals"
    labels = folder / "Data_Entry_2017_v2020_subset.csv"
    report = tmp_path / "skipped.csv"
    data = load_dataset(str(folder), labels=labels, joined_column="Finding Labels", group="Patient ID", skipped=report)
    assert data.x.shape == (13, 1, 64, 64)
    assert "2,411 rows name images that are not there" in data.notes[0]
    assert len(rows_of(report)) == 2411
    assert len(data.space) == 14
    assert data.annotation.observed.all()
    first = data.ids.index("00000001_000.png")
    positive = [name for name, cell in zip(data.space.names, yes(data)[first], strict=True) if cell]
    assert positive == ["Cardiomegaly"]
    assert data.groups[first] == "1"
    with np.load(PACKS / "nih_cxr14_all_64.npz") as pack:
        same = pack["x"][pack["image_id"].tolist().index("00000001_000.png")]
    assert np.abs(data.x[first, 0].astype(int) - same).mean() < 12


@pytest.mark.parametrize(
    ("names", "cells"),
    [
        (["p1/s1/1.png", "p1/s2/1.png", "p2/s1/1.png"], ["p1/s1/1.dcm", "p1/s2/1.dcm", "p2/s1/1.dcm"]),
        (["p1/s1/1.png", "p1/s2/1.png", "p2/s1/1.png"], ["P1\\\\S1\\\\1", "P1\\\\S2\\\\1", "P2\\\\S1\\\\1"]),
        (["in/p1/1.png", "in/p2/1.png", "in/p3/1.PNG"], ["p1/1.png", "p2/1.png", "p3/1.png"]),
        (["p1/1.png", "p2/1.png", "p3/1.PNG"], ["D:/data/P1/1.jpg", "D:/data/P2/1.jpg", "D:/data/P3/1.jpg"]),
    ],
)
def test_paths_that_differ_in_ending_letters_or_depth_go_before_bare_names(tmp_path, names, cells):
    folder = images(tmp_path, *names)
    text = "file,A\n" + "".join(f"{cell},{i % 2}\n" for i, cell in enumerate(cells))
    data = load_folder(folder, table(tmp_path, text.replace("\\\\", "\\")))
    assert data.ids == names
    assert yes(data) == [[0], [1], [0]]


def test_a_name_of_several_images_is_not_said_to_be_missing(tmp_path):
    folder = images(tmp_path, "a/same.png", "b/same.png", "c.png", "d.png")
    data = load_folder(folder, table(tmp_path, "file,A\nsame.png,1\nc.png,0\nd.png,1\n"))
    assert data.notes[0] == "Left out: 1 row has the name of several images."
