import re

import numpy as np
import pytest

from image_files import BINARY, classes, images, table, yes
from taut.data import DataError
from taut.data.folder import load_folder
from taut.labels import LabelError, LabelSpace


def test_yes_no_columns_with_holes(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    labels = table(tmp_path, "name,age,A,B\nb.png,60,1,\na.png,50,0.0,1.0\nc.png,2, ,NaN\n")
    data = load_folder(folder, labels)
    assert data.ids == ["b.png", "a.png", "c.png"]
    assert data.space == BINARY
    np.testing.assert_equal(yes(data), [[1, np.nan], [0, 1], [np.nan, np.nan]])
    assert data.notes == [
        "Labels, as the columns of only 0 and 1, or yes and no: A, B.",
        "Columns not used: age.",
    ]


def test_uncertain_cells_are_unannotated_and_counted(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "Path,Sex,A,B\na.png,F,-1.0,1.0\nb.png,M,1.0,0.0\ngone.png,M,-1.0,-1.0\n")
    data = load_folder(folder, labels)
    np.testing.assert_equal(yes(data), [[np.nan, 1], [1, 0]])
    assert "1 cell is −1 (uncertain): taken as unannotated." in data.notes


def test_words_for_yes_and_no(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    data = load_folder(folder, table(tmp_path, "name,A,B\na.png,True,no\nb.png,False,YES\nc.png,,0\n"))
    assert data.space == BINARY
    np.testing.assert_equal(yes(data), [[1, 0], [0, 1], [np.nan, 0]])
    with pytest.raises(LabelError, match=r"label 'A', row 3: 'maybe' is not 0, 1, -1 or blank"):
        load_folder(folder, table(tmp_path, "name,A,B\na.png,yes,1\nb.png,maybe,1\n"), space=BINARY)


def one_hot(tmp_path, *more):
    """Seven images of three classes and one that nothing is said of, a column for each class."""
    names = [f"{i}.png" for i in range(8)]
    rows = [f"{name},{','.join('1.0' if i % 3 == c else '0.0' for c in range(3))}" for i, name in enumerate(names[:7])]
    return images(tmp_path, *names), table(tmp_path, "\n".join(["image,MEL,NV,BCC", *rows, "7.png,,,", *more, ""]))


def test_columns_with_a_single_one_in_each_row_are_classes(tmp_path):
    folder, labels = one_hot(tmp_path)
    data = load_folder(folder, labels)
    assert data.space == LabelSpace.multiclass(["MEL", "NV", "BCC"])
    assert classes(data) == ["MEL", "NV", "BCC", "MEL", "NV", "BCC", "MEL", None]
    assert data.notes[0].startswith("Each annotated row has a single 1 in MEL, NV, BCC: read as the classes of one")
    # A model of these classes reads such a table too, however few rows it has.
    small = table(tmp_path, "image,MEL,NV,BCC\n1.png,0,1,0\n2.png,,,\n")
    found = load_folder(folder, small, space=data.space)
    assert dict(zip(found.ids, classes(found), strict=True))["1.png"] == "NV"
    with pytest.raises(LabelError, match=r"row 3 has not a single 1 in the columns MEL, NV, BCC"):
        load_folder(folder, table(tmp_path, "image,MEL,NV,BCC\n1.png,0,1,0\n2.png,1,1,0\n"), space=data.space)


def test_columns_of_yes_no_labels_are_not_taken_for_classes(tmp_path):
    folder, labels = one_hot(tmp_path)
    named = load_folder(folder, labels, label_columns=["MEL", "NV", "BCC"])
    assert named.space == LabelSpace.multilabel(["MEL", "NV", "BCC"])
    for cells in ("1,1,0", "0,0,0", "1,,0"):
        folder, labels = one_hot(tmp_path, f"7.png,{cells}")
        assert len(load_folder(folder, labels).space) == 3
    few = table(tmp_path, "image,A,B,C\n0.png,1,0,0\n1.png,0,1,0\n2.png,0,0,1\n")
    assert len(load_folder(folder, few).space) == 3


def test_one_column_of_classes(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    data = load_folder(folder, table(tmp_path, "file,kind\na.png,dog\nb.png,cat\nc.png,\n"))
    assert data.space == LabelSpace.multiclass(["cat", "dog"], "kind")
    assert classes(data) == ["dog", "cat", None]


def test_classes_that_are_numbers(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    labels = table(tmp_path, "file,digit\na.png,10.0\nb.png,9.0\nc.png,\nd.png,-1.0\ne.png,2\n")
    data = load_folder(folder, labels)
    assert data.space.labels[0].classes == ("2", "9", "10")
    assert classes(data) == ["10", "9", None, None, "2"]
    assert classes(load_folder(folder, labels, space=LabelSpace.multiclass(11, "digit"))) == [
        10,
        9,
        None,
        None,
        2,
    ]
    assert load_folder(folder, labels, unlabeled=None).space.labels[0].classes == ("-1", "2", "9", "10")
    assert load_folder(folder, labels, unlabeled=9).annotation.observed[:, 0].tolist() == [
        True,
        False,
        False,
        True,
        True,
    ]


def test_label_columns_of_several_kinds(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file,view,A,B\na.png,front,1,0\nb.png,side,,1\n")
    data = load_folder(folder, labels, label_columns=["view", "A"])
    assert [label.classes for label in data.space] == [("front", "side"), (0, 1)]
    assert classes(data) == [["front", 1], ["side", None]]
    assert "Columns not used: B." in data.notes


def test_an_index_column_without_a_name_is_no_label(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    data = load_folder(folder, table(tmp_path, ",file,kind\n0,a.png,dog\n1,b.png,cat\n"))
    assert data.space.names == ("kind",)


def test_a_space_names_the_columns(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file,A,C,B\na.png,1,1,0\nb.png,0,1,\n")
    data = load_folder(folder, labels, space=LabelSpace.multilabel(["B", "A"]))
    np.testing.assert_equal(yes(data), [[0, 1], [np.nan, 0]])
    with pytest.raises(DataError, match=r"labels\.csv: the labels E, D are asked for, but the columns are A, C, B"):
        load_folder(folder, labels, space=LabelSpace.multilabel(["E", "D"]))


def test_labels_without_a_column_are_not_scored(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file,A,C,B\na.png,1,1,0\nb.png,0,-1,\n")
    space = LabelSpace.multilabel(["D", "B", "C"])
    for columns in (None, ["C", "B"], ["C", "D", "B"]):
        data = load_folder(folder, labels, space=space, label_columns=columns)
        assert data.space == space
        np.testing.assert_equal(yes(data), [[np.nan, 0, 1], [np.nan, np.nan, np.nan]])
        assert "Labels that the table has no column of: D." in data.notes


def test_names_that_the_table_cannot_have_are_not_said_no_to(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    labels = table(tmp_path, "file,found\na.png,Effusion|Mass\nb.png,No Finding\nc.png,Mass\n")
    space = LabelSpace.multilabel(["Pleural Effusion", "Mass"])
    data = load_folder(folder, labels, joined_column="found", space=space)
    np.testing.assert_equal(yes(data), [[np.nan, 1], [np.nan, 0], [np.nan, 1]])
    assert "Labels that 'found' does not name: Pleural Effusion." in data.notes
    # Where all names are labels, a label that no cell has is one that no image has.
    rare = load_folder(folder, labels, joined_column="found", space=LabelSpace.multilabel(["Effusion", "Mass", "Rare"]))
    np.testing.assert_equal(yes(rare), [[1, 1, 0], [0, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("file,f\na.png,Mass|Nodule\nb.png,mass\n", {"joined_column": "f"}),
        (
            "file,f\na.png,mass\nb.png,Nodule\n",
            {"joined_column": "f", "space": LabelSpace.multilabel(["Mass", "Nodule"])},
        ),
    ],
)
def test_names_that_differ_in_case_alone_are_refused(tmp_path, text, options):
    folder = images(tmp_path, "a.png", "b.png")
    with pytest.raises(LabelError, match=r"labels\.csv: column 'f' has names that differ in case alone, Mass, mass"):
        load_folder(folder, table(tmp_path, text), **options)


def test_numbers_with_a_decimal_comma(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    labels = table(tmp_path, "file;A;B\na.png;1,0;0,0\nb.png;0,0;-1,0\nc.png;;1,0\n")
    np.testing.assert_equal(yes(load_folder(folder, labels)), [[1, 0], [0, np.nan], [np.nan, 1]])
    joined = table(tmp_path, "file;f\na.png;1,2\nb.png;3\nc.png;\n", "joined.csv")
    assert load_folder(folder, joined, joined_column="f", separator=",").space.names == ("1", "2", "3")


def test_a_blank_column_is_no_label(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file,A,B\na.png,1,\nb.png,0,\n")
    with pytest.raises(LabelError, match="column 'B' is blank in every row: leave it out of --label-columns"):
        load_folder(folder, labels, label_columns=["A", "B"])
    assert load_folder(folder, labels).space.names == ("A",)


def test_a_table_of_names_only_needs_a_space(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file\na.png\n")
    with pytest.raises(DataError, match=r"labels\.csv: no column of the table holds labels.*--label-columns.*: file"):
        load_folder(folder, labels)
    data = load_folder(folder, labels, space=BINARY)
    assert not data.annotation.observed.any()
    assert "The table has no labels." in data.notes


def test_joined_names(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    labels = table(tmp_path, "file,who,found\na.png,1,A|B\nb.png,2,No Finding\nc.png,3,\nd.png,4, C | A|\n")
    data = load_folder(folder, labels, joined_column="found")
    assert data.space.names == ("A", "B", "C")
    np.testing.assert_equal(yes(data), [[1, 1, 0], [0, 0, 0], [np.nan] * 3, [1, 0, 1]])
    part = load_folder(folder, labels, joined_column="found", space=LabelSpace.multilabel(["C", "B"]))
    np.testing.assert_equal(yes(part), [[0, 1], [0, 0], [np.nan] * 2, [1, 0]])
    assert "Names in 'found' that are not labels here: A." in part.notes
    other = table(tmp_path, "file,found\na.png,A;B\nb.png,B\n", "other.csv")
    assert load_folder(folder, other, joined_column="found", separator=";").space.names == ("A", "B")


def test_lists_of_names(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    rows = """a.png,"['A, mild', ""it's B""]"\nb.png,['C']\nc.png,\nd.png,['']\n"""
    data = load_folder(folder, table(tmp_path, f"file,found\n{rows}"), joined_column="found")
    assert data.space.names == ("A, mild", "C", "it's B")
    np.testing.assert_equal(yes(data), [[1, 0, 1], [0, 1, 0], [np.nan] * 3, [0, 0, 0]])
    with pytest.raises(DataError, match="column 'found' has lists of names: name it with --joined-column"):
        load_folder(folder, table(tmp_path, f"file,found\n{rows}"))
    for wrong in ("[A]", "[1]", "['A' 'B']"):
        labels = table(tmp_path, f"file,found\na.png,['A']\nb.png,{wrong}\n")
        with pytest.raises(LabelError, match=r"row 3: .* in 'found' is not a list of quoted names such as"):
            load_folder(folder, labels, joined_column="found")


LONG = """file,found
a.png,A
a.png,B
b.png,No Finding
b.png,No Finding
c.png,C
c.png,
d.png,No Finding
d.png,C
gone.png,C
lost.png,A
"""


def test_rows_of_one_image_name_their_findings_together(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    data = load_folder(folder, table(tmp_path, LONG), joined_column="found")
    assert data.ids == ["a.png", "b.png", "c.png", "d.png"]  # which is said to have nothing and something
    np.testing.assert_equal(yes(data), [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, np.nan]])
    assert "4 rows or files repeat an image" in data.notes[0]
    assert "1 image has rows that differ in some yes/no cells: these cells are uncertain." in data.notes


@pytest.mark.parametrize("mark", [";", ",", " "])
def test_names_joined_otherwise_need_a_separator(tmp_path, mark):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    text = f'file,tags\na.png,"haze{mark}primary"\nb.png,primary\nc.png,haze\n'
    labels = table(tmp_path, text)
    with pytest.raises(DataError, match=f"names joined by '{mark}'.*--separator '{mark}', or that each cell is one"):
        load_folder(folder, labels, joined_column="tags")
    data = load_folder(folder, labels, joined_column="tags", separator=mark)
    assert data.space.names == ("haze", "primary")
    np.testing.assert_equal(yes(data), [[1, 1], [0, 1], [1, 0]])
    assert len(load_folder(folder, labels, joined_column="tags", separator="|").space) == 3


def test_as_many_combinations_as_their_names_allow(tmp_path):
    tags = ["a,b", "a,c", "a,d", "b,c", "b,d", "c,d", "e,f", "a,e", "b,e", "c,e", "d,e", "a"]
    names = [f"{i}.png" for i in range(24)]
    folder = images(tmp_path, *names)
    rows = "".join(f'{name},"{tags[i % 12]}"\n' for i, name in enumerate(names))
    labels = table(tmp_path, "file,tags\n" + rows)
    with pytest.raises(DataError, match="'tags' seems to have names joined by ',': name it with --joined-column and"):
        load_folder(folder, labels)
    single = table(tmp_path, "file,tags\n0.png,a\n1.png,b\n", "single.csv")
    assert load_folder(folder, single, joined_column="tags").space.names == ("a", "b")


def test_blank_cells_of_joined_names_follow_the_policy(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    labels = table(tmp_path, "file,found\na.png,A|B\nb.png,\nc.png,\nc.png,A\n")
    usual = load_folder(folder, labels, joined_column="found")
    np.testing.assert_equal(yes(usual), [[1, 1], [np.nan] * 2, [1, 0], [np.nan] * 2])
    filled = load_folder(folder, labels, joined_column="found", blank="negative")
    assert filled.ids == usual.ids
    np.testing.assert_equal(yes(filled), [[1, 1], [0, 0], [1, 0], [np.nan] * 2])
    # CheXpert's own blank cells are negative, but not those of a column that a flag names.
    lines = [f"{name}.png,1,0,{found}\n" for name, found in (("a", "x|y"), ("b", "x"), ("c", ""))]
    named = table(tmp_path, "Path,Edema,Cardiomegaly,found\n" + "".join(lines), "named.csv")
    kept = load_folder(folder, named, path_column="Path", joined_column="found")
    assert np.isnan(yes(kept)[2]).all()


def test_names_of_the_same_words_need_no_separator(tmp_path):
    names = ["left mass", "right mass", "left nodule", "right nodule", "left effusion", "right effusion"]
    folder = images(tmp_path, *(f"{i}.png" for i in range(6)))
    labels = table(tmp_path, "file,found\n" + "".join(f"{i}.png,{name}\n" for i, name in enumerate(names)))
    assert len(load_folder(folder, labels, joined_column="found").space) == 6


def test_names_with_spaces_need_no_separator(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    labels = table(tmp_path, "file,found\na.png,Pleural effusion\nb.png,Lung mass\nc.png,No Finding\n")
    assert load_folder(folder, labels, joined_column="found").space.names == ("Lung mass", "Pleural effusion")


def test_a_column_of_combinations_is_no_column_of_classes(tmp_path):
    names = [f"{i}.png" for i in range(30)]
    folder = images(tmp_path, *names)
    tags = ["a b", "a c", "a d", "b c", "b d", "c d", "a b c", "a b d", "a c d", "a"]
    rows = "".join(f"{name},{tags[i % 10]}\n" for i, name in enumerate(names))
    labels = table(tmp_path, "file,tags\n" + rows)
    with pytest.raises(DataError, match="'tags' seems to have names joined by ' ': name it with --joined-column and"):
        load_folder(folder, labels)
    assert len(load_folder(folder, labels, label_columns=["tags"]).space.labels[0].classes) == 10


@pytest.mark.parametrize("mark", [";", "\t"])
def test_columns_between_semicolons_or_tabs(tmp_path, mark):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    text = 'file,A,"B, too",C\na.png,1,0,0\nb.png,0,1,1\nc.png,1,1,0\n'
    text = "\n".join(re.sub(r"(\"[^\"]*\")|,", lambda found: found[1] or mark, line) for line in text.split("\n"))
    labels = table(tmp_path, text, "labels.tsv")
    data = load_folder(folder, labels)
    assert data.space.names == ("A", "B, too", "C")
    np.testing.assert_equal(yes(data), [[1, 0, 0], [0, 1, 1], [1, 1, 0]])


def test_minus_one_is_not_taken_for_no(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    full = table(tmp_path, "file,A,B\na.png,1,-1\nb.png,-1,1\nc.png,1,1\n")
    with pytest.raises(DataError, match="have 1 and -1 but no 0, and -1 is read as uncertain: write 0 where it means"):
        load_folder(folder, full)
    assert load_folder(folder, full, space=BINARY).annotation.observed.sum() == 4  # uncertain, as in training
    data = load_folder(folder, table(tmp_path, "file,A,B\na.png,1,-1\nb.png,-1,1\nc.png,1,\n", "holes.csv"))
    np.testing.assert_equal(yes(data), [[1, np.nan], [np.nan, 1], [1, np.nan]])
    assert any(note.startswith("The yes/no labels have 1 and -1 but no 0") for note in data.notes)
    for space in (None, BINARY):
        data = load_folder(folder, full, space=space, uncertain="negative")
        np.testing.assert_equal(yes(data), [[1, 0], [0, 1], [1, 1]])
        assert "The yes/no labels have 1 and -1 but no 0: -1 is read as no." in data.notes
        assert (data.cells >= 0).all()  # so that they are scored


def test_what_is_unannotated_has_a_name_everywhere(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    data = load_folder(folder, table(tmp_path, "file,A\na.png,1\nb.png,9\nc.png,0\n"), unlabeled=9)
    np.testing.assert_equal(yes(data), [[1], [np.nan], [0]])
    joined = table(tmp_path, "file,found\na.png,A|B\nb.png,Unknown\nc.png,B\n", "joined.csv")
    data = load_folder(folder, joined, joined_column="found", unlabeled="Unknown")
    np.testing.assert_equal(yes(data), [[1, 1], [np.nan] * 2, [0, 1]])


def test_a_column_that_is_nearly_a_label_is_told(tmp_path):
    names = [f"{i}.png" for i in range(12)]
    folder = images(tmp_path, *names)
    rows = "".join(f"{name},{i % 2},{'Unknown' if i == 3 else i // 6}\n" for i, name in enumerate(names))
    labels = table(tmp_path, "file,A,B\n" + rows)
    data = load_folder(folder, labels)
    assert data.space.names == ("A",)
    assert any(note.startswith("'B' is no label, since row 5 says 'Unknown': leave such") for note in data.notes)
    assert load_folder(folder, labels, unlabeled="Unknown").space.names == ("A", "B")


def test_other_words_for_nothing_are_blank(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png")
    data = load_folder(folder, table(tmp_path, "file,dx\na.png,melanoma\nb.png,N/A\nc.png,nevus\n"))
    assert data.space.labels[0].classes == ("melanoma", "nevus")
    assert data.annotation.observed[:, 0].tolist() == [True, False, True]


def test_the_only_yes_no_column_is_the_label_of_its_name_or_of_none(tmp_path):
    folder, space = images(tmp_path, "a.png", "b.png"), LabelSpace.multilabel(["Edema"])
    for name in ("Edema", "edema", "label", "Diagnosis"):
        data = load_folder(folder, table(tmp_path, f"file,{name}\na.png,1\nb.png,0\n"), space=space)
        np.testing.assert_equal(yes(data), [[1], [0]])
    other = table(tmp_path, "file,Pneumonia\na.png,1\nb.png,0\n")
    nameless = LabelSpace.multilabel(1)
    np.testing.assert_equal(yes(load_folder(folder, other, space=nameless)), [[1], [0]])
    with pytest.raises(DataError, match="the labels Edema are asked for, but the columns are Pneumonia: rename those"):
        load_folder(folder, other, space=space)
    assert load_folder(folder, other, space=space, label_columns=["Pneumonia"]).annotation.observed.all()


def test_a_column_of_another_name_is_not_taken_for_the_label_that_is_asked_for(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    labels = table(tmp_path, "file,male,grade\na.png,1,0\nb.png,0,3\n")
    space = LabelSpace.multiclass(["0", "1", "2", "3"], "diagnosis")
    with pytest.raises(DataError, match="the labels diagnosis are asked for, but the columns are male: rename those"):
        load_folder(folder, labels, space=space)
    assert load_folder(folder, labels, space=space, label_columns=["grade"]).annotation.observed.all()


def test_classes_that_contradict_may_be_findings(tmp_path):
    folder = images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    notes = load_folder(folder, table(tmp_path, LONG)).notes
    hint = "2 images have rows of different classes of 'found': where an image can be of several at once, name that"
    assert any(note.startswith(hint) for note in notes)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "file,f\na.png,A|No Finding\n",
            {"joined_column": "f"},
            r"labels\.csv: row 2: 'A\|No Finding' in 'f' says both",
        ),
        (
            "file,f\na.png,No Finding\n",
            {"joined_column": "f"},
            r"--joined-column 'f' has no names of labels joined by '\|'",
        ),
        (
            "file,f\na.png,C\n",
            {"joined_column": "f", "space": BINARY},
            r"'f' has no names A, B joined by '\|'; it has C",
        ),
        (
            "file,f\na.png,A\n",
            {"joined_column": "g"},
            r"--joined-column 'g' is not a column of the table; its columns: file, f",
        ),
        (
            "file,f\na.png,A\n",
            {"joined_column": "f", "space": LabelSpace.multiclass(["A", "B"], "A")},
            r"--joined-column 'f' gives yes/no labels, but other labels are asked for",
        ),
        (
            "file,f\na.png,A|B\nb.png,A\n",
            {},
            r"column 'f' has names joined by '\|': name it with --joined-column",
        ),
        ("file,f\na.png,A|B\nb.png,A\n", {"label_columns": ["f"]}, r"not with --label-columns"),
        (
            "file,f\na.png,A\n",
            {"joined_column": "f", "label_columns": ["f"]},
            r"--joined-column and --label-columns are two",
        ),
        (
            "file,A\na.png,1\n",
            {"label_columns": ["A", "E"]},
            r"--label-columns 'E' is not a column of the table.*: file, A",
        ),
        (
            "file,A\na.png,1\n",
            {"path_column": "p"},
            r"--path-column 'p' is not a column of the table.*: file, A",
        ),
        ("file,A\na.png,1\n", {"group": "p"}, r"labels\.csv: --group 'p' is not a column"),
        ("file,A\na.png,1\n", {"split_column": "p"}, r"--split-column 'p' is not a column"),
        (
            "file,x,y\na.png,u,v\nb.png,w,v\n",
            {},
            r"not clear which columns.*--label-columns, or with --joined-column.*: x, y",
        ),
        ("file,A\na.png,x\nb.png,x\n", {}, r"labels\.csv: label 'A' has 1 class \['x'\]: at least two"),
        ("file,A\na.png,0\nb.png,x\n", {}, r"label 'A', row 3: 'x' in a column of 0 and 1 is ambiguous"),
        ("file,A\na.png,0.25\nb.png,3\n", {}, r"column 'A' holds continuous values such as 0\.25"),
        (
            "file,A,B\na.png,0,1\nb.png,2,1\n",
            {"space": BINARY},
            r"label 'A', row 3: '2' is not 0, 1, -1 or blank",
        ),
        (
            "file,A\na.png,u\nb.png,w\n",
            {"space": LabelSpace.multiclass(["u", "v"], "A")},
            r"label 'A', row 3: 'w' is not one of its classes \['u', 'v'\]",
        ),
        (
            "n,A\nx,1\ny,0\n",
            {},
            r"no column of the table looks like image files.*--path-column; columns: n, A",
        ),
        (
            "file,s,A\na.png,train,1\nb.png,fold2,0\n",
            {"split_column": "s"},
            r"'s', row 3: 'fold2' is not one of train, valid, test",
        ),
        (
            "file,s,A\na.png,,1\nb.png,test,0\n",
            {"split_column": "s"},
            r"'s', row 2: blank is not one of train",
        ),
        ("", {}, r"labels\.csv is not a CSV table: No columns"),
        ("file,A\n", {}, r"labels\.csv has no rows below its header"),
        ("file,A,A\na.png,1,0\n", {}, r"labels\.csv has two columns named 'A': name them differently"),
        ("file,A,A \na.png,1,0\n", {}, r"labels\.csv has two columns named 'A': name them differently"),
        ("file,A\na.png,1\nb.png,1,3,4\n", {}, r"labels\.csv is not a CSV table: Error tokenizing"),
        ("file,A\na.png,1,5\nb.png,1,6\n", {}, r"labels\.csv is not a CSV table: Length of header"),
    ],
)
def test_tables_that_are_not_clear(tmp_path, text, options, message):
    folder = images(tmp_path, "a.png", "b.png")
    with pytest.raises((DataError, LabelError), match=message):
        load_folder(folder, table(tmp_path, text), **options)


def test_files_that_are_no_table(tmp_path):
    folder = images(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"gone\.csv: there is no such table"):
        load_folder(folder, tmp_path / "gone.csv")
    latin = tmp_path / "latin.csv"
    latin.write_bytes("file,Größe\na.png,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv is not text in UTF-8"):
        load_folder(folder, latin)


def test_a_column_that_hardly_repeats_is_not_taken_for_classes(tmp_path):
    names = [f"{i}.png" for i in range(25)]
    folder = images(tmp_path, *names, size=(2, 2))
    labels = table(tmp_path, "file,text\n" + "".join(f"{name},remark {name}\n" for name in names))
    with pytest.raises(DataError, match=r"'text' hardly repeat \(25 different ones in 25 rows\).*--label-columns"):
        load_folder(folder, labels)
    assert len(load_folder(folder, labels, label_columns=["text"]).space.labels[0].classes) == 25


@pytest.mark.parametrize(
    ("positive", "negative", "unsure"),
    [("Y", "n", "?"), ("positive", "Negative", "uncertain"), ("Present", "absent", "Equivocal"), ("True", "no", "-1")],
)
def test_words_of_clinics_are_yes_no_and_uncertain(tmp_path, positive, negative, unsure):
    folder = images(tmp_path, *(f"{i}.png" for i in range(4)))
    lines = f"file,A\n0.png,{positive}\n1.png,{negative}\n2.png,{unsure}\n3.png,\n"
    data = load_folder(folder, table(tmp_path, lines))
    np.testing.assert_equal(yes(data), [[1], [0], [np.nan], [np.nan]])
    sure = load_folder(folder, table(tmp_path, lines), uncertain="positive")
    np.testing.assert_equal(yes(sure), [[1], [0], [1], [np.nan]])


@pytest.mark.parametrize("none", ["No Finding", "None", "normal", "no findings"])
def test_a_joined_cell_may_say_that_there_is_nothing(tmp_path, none):
    folder = images(tmp_path, "0.png", "1.png")
    data = load_folder(folder, table(tmp_path, f"file,f\n0.png,A|B\n1.png,{none}\n"), joined_column="f")
    assert data.space.names == ("A", "B")
    np.testing.assert_equal(yes(data), [[1, 1], [0, 0]])


def test_words_for_uncertain_are_no_signed_no(tmp_path):
    folder = images(tmp_path, *(f"{i}.png" for i in range(4)))
    lines = "file,A\n0.png,positive\n1.png,uncertain\n2.png,uncertain\n3.png,positive\n"
    for uncertain in (None, "negative"):
        data = load_folder(folder, table(tmp_path, lines), uncertain=uncertain)
        assert (data.cells[:, 0] < 0).tolist() == [False, True, True, False]
        assert not any("1 and -1" in note for note in data.notes)


def test_a_column_of_question_marks_is_no_label(tmp_path):
    folder = images(tmp_path, *(f"{i}.png" for i in range(4)))
    data = load_folder(folder, table(tmp_path, "file,A,notes\n0.png,1,?\n1.png,0,\n2.png,1,?\n3.png,,\n"))
    assert data.space.names == ("A",)


def test_normal_beside_another_name_is_a_name(tmp_path):
    folder = images(tmp_path, "0.png", "1.png", "2.png")
    lines = "file,f\n0.png,normal|tube\n1.png,normal\n2.png,mass|tube\n"
    data = load_folder(folder, table(tmp_path, lines), joined_column="f")
    assert data.space.names == ("mass", "normal", "tube")
    with pytest.raises(LabelError, match="both no finding and a finding"):
        load_folder(folder, table(tmp_path, "file,f\n0.png,No Finding|tube\n1.png,tube\n"), joined_column="f")


# --- columns of 0 and 1 beside one that is called as labels are ---------------------------------------------


@pytest.mark.parametrize(
    ("name", "cells"),
    [("diagnosis", ["nevus", "mole", "nevus", "mole"]), ("Labels", ["['a', 'b']", "['c']", "['a']", "[]"])],
)
def test_a_stray_column_of_0_and_1_is_not_taken_for_the_label(tmp_path, name, cells):
    folder = images(tmp_path, *(f"{i}.png" for i in range(4)))
    lines = [f'{i}.png,{i % 2},"{cell}"' for i, cell in enumerate(cells)]
    labels = table(tmp_path, "\n".join([f"file,biopsy,{name}", *lines]))
    said = f"not clear which columns hold labels: biopsy of 0 and 1 \\(or such words\\), or {name}: name them with"
    with pytest.raises(DataError, match=said):
        load_folder(folder, labels)
    assert load_folder(folder, labels, label_columns=["biopsy"]).space == LabelSpace.multilabel(["biopsy"])
    few = table(tmp_path, "\n".join([f"file,biopsy,{name}", *(f"{i}.png,{i % 2},{i}" for i in range(4))]), "few.csv")
    assert load_folder(folder, few).space.names == ("biopsy",)  # cells that do not repeat are no classes


def test_columns_that_are_the_same_in_all_rows_are_no_labels_beside_others(tmp_path):
    folder = images(tmp_path, *(f"{i}.png" for i in range(4)))
    labels = table(tmp_path, "file,frames,kind\n0.png,1,a\n1.png,1,b\n2.png,1,a\n3.png,1,b\n")
    data = load_folder(folder, labels)
    assert (data.space.names, classes(data)) == (("kind",), ["a", "b", "a", "b"])
    alone = table(tmp_path, "file,A,B\n0.png,1,0\n1.png,1,1\n", "alone.csv")
    assert load_folder(folder, alone).space.names == ("A", "B")


def test_a_class_that_says_that_nothing_is_known_is_told(tmp_path):
    folder = images(tmp_path, *(f"{i}.png" for i in range(4)))
    labels = table(tmp_path, "file,kind\n0.png,Normal\n1.png,Abnormal\n2.png,Uncertain\n3.png,Normal\n")
    said = "'Uncertain' is a class of 'kind': if it means that nothing is known, pass --unlabeled Uncertain."
    assert said in load_folder(folder, labels).notes
    data = load_folder(folder, labels, unlabeled="Uncertain")
    assert classes(data) == ["Normal", "Abnormal", None, "Normal"]
    assert said not in data.notes


def test_a_column_that_says_nothing_is_no_column_of_names(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    data = load_folder(folder, table(tmp_path, "notes,id,A\n,a,1\n,b,0\n"))
    np.testing.assert_equal(yes(data), [[1], [0]])


@pytest.mark.parametrize("mark", [";", ","])
def test_the_line_with_which_excel_names_the_separator(tmp_path, mark):
    folder = images(tmp_path, "a.png", "b.png")
    lines = [f"sep={mark}", f"name{mark}A{mark}B", f"a.png{mark}1{mark}0", f"b.png{mark}0{mark}x"]
    text = "\n".join(lines).replace("x", "1")
    np.testing.assert_equal(yes(load_folder(folder, table(tmp_path, text))), [[1, 0], [0, 1]])
    # Rows count as in Excel, which does not show that line.
    with pytest.raises(LabelError, match=r"label 'B', row 3: 'x' is not 0, 1, -1 or blank"):
        load_folder(folder, table(tmp_path, "\n".join(lines)), space=BINARY)


def test_a_word_for_nothing_is_named_where_no_column_is_a_label(tmp_path):
    names = [f"{i}.png" for i in range(6)]
    folder = images(tmp_path, *names)
    cells = ["1,0", "uncertain,n.a.", "0,1", "n.a.,0", "1,1", "0,0"]
    labels = table(tmp_path, "name,A,B\n" + "".join(f"{n},{c}\n" for n, c in zip(names, cells, strict=True)))
    with pytest.raises(DataError, match=r"'A' is no label, since row 5 says 'n.a.': .* --unlabeled$"):
        load_folder(folder, labels)
    with pytest.raises(LabelError, match=r"label 'A', row 5: 'n.a.' in a column of 0 and 1 .* with --unlabeled"):
        load_folder(folder, labels, label_columns=["A", "B"])
    found = yes(load_folder(folder, labels, label_columns=["A", "B"], unlabeled="n.a."))
    nan = np.nan
    np.testing.assert_equal(found, [[1, 0], [nan, nan], [0, 1], [nan, 0], [1, 1], [0, 0]])


def test_a_label_that_is_the_same_in_every_row_is_told(tmp_path):
    folder = images(tmp_path, "a.png", "b.png")
    data = load_folder(folder, table(tmp_path, "name,Frontal,A\na.png,1,0\nb.png,1,1\n"))
    assert data.space.names == ("Frontal", "A")
    assert [note for note in data.notes if "same in every row" in note] == [
        "'Frontal' says the same in every row: if it is no label, name the others with --label-columns."
    ]


def test_the_only_column_that_is_called_as_labels_are_is_the_label(tmp_path):
    folder = images(tmp_path, *(f"{i}.png" for i in range(6)))
    rows = "".join(f"{i}.png,{30 + i},{'fm'[i % 2]},{('nv', 'mel', '')[i % 3]}\n" for i in range(6))
    data = load_folder(folder, table(tmp_path, "file,age,sex,dx\n" + rows))
    assert data.space.names == ("dx",)
    assert data.annotation.observed[:, 0].tolist() == [True, True, False] * 2
    assert "The label is column 'dx', by its name: --label-columns names others." in data.notes
    assert "Columns not used: age, sex." in data.notes
    alone = load_folder(folder, table(tmp_path, "file,dx\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(6))))
    assert not any("by its name" in note for note in alone.notes)
    with pytest.raises(DataError, match="not clear which columns"):  # two are
        load_folder(
            folder, table(tmp_path, "file,stage,dx\n" + "".join(f"{i}.png,{'ab'[i % 2]},c{i // 3}\n" for i in range(6)))
        )
