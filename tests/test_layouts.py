"""bears.training.layouts: however photos lie, each has the label and the part that its folder or its table says."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from conftest import draw_folder, draw_shape

from bears.training import TrainingError
from bears.training.dataset import check_photos, counts, elsewhere, split
from bears.training.layouts import find


def draw(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_shape("circle", str(file)).save(file, format="PNG")


def found(folder: Path) -> dict[str, tuple]:
    """Label and part of each file."""
    files, _ = find(folder)
    return {row.file.relative_to(folder).as_posix(): (row.label, row.part) for row in files.itertuples()}


def remarks(folder: Path) -> dict[str, str]:
    _, odd = find(folder)
    return {file.relative_to(folder).as_posix(): why for file, why in zip(odd.file, odd.why, strict=True)}


# Folders


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Training", "Validation", "Testing"), ("train", "val", None)]
)
def test_folders_of_parts_are_taken_for_what_they_are(tmp_path, names):
    for name in filter(None, names):
        draw_folder(tmp_path / name, 4, shapes=["circle", "square"])
    files, odd = find(tmp_path)
    assert odd.empty and len(files) == 8 * len([*filter(None, names)])
    assert set(files.label) == {"circle", "square"}
    parts = {file.relative_to(tmp_path).parts[0]: part for file, part in zip(files.file, files.part, strict=True)}
    assert parts == {name: part for name, part in zip(names, ("train", "valid", "test"), strict=True) if name}


def test_a_label_may_be_called_train_and_photos_for_a_test_without_labels_are_listed(tmp_path):
    draw(tmp_path / "train" / "1.png", tmp_path / "tram" / "1.png")
    assert found(tmp_path) == {"train/1.png": ("train", None), "tram/1.png": ("tram", None)}
    draw(tmp_path / "train" / "cat" / "1.png", tmp_path / "test" / "1.png", tmp_path / "train" / "1.png")
    assert found(tmp_path) == {"train/cat/1.png": ("cat", "train"), "tram/1.png": ("tram", None)}
    assert remarks(tmp_path) == {
        "test/1.png": "It is in no label's folder.",
        "train/1.png": "It is in no label's folder.",
    }


@pytest.fixture
def parted(tmp_path):
    """Drawings of two shapes, in folders for training and validation, none of which looks like another one."""
    for part, seeds in (("train", range(40)), ("valid", range(40, 52))):
        for shape in ("circle", "square"):
            for seed in seeds:
                file = tmp_path / part / shape / f"{seed}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                draw_shape(shape, seed).save(file)
    photos, odd = check_photos(tmp_path)
    assert odd.empty
    return photos.assign(group=photos.sha256)


def test_a_split_that_is_given_holds_and_what_it_lacks_is_drawn_from_training(parted, tmp_path):
    photos = split(parted, 42, tmp_path / "split.csv")
    assert (photos.split[photos.part == "valid"] == "valid").all()
    assert set(photos.split[photos.part == "train"]) == {"train", "test"}
    assert elsewhere(photos) == (photos.split == "test").sum() > 4
    assert (counts(photos) > 0).all(axis=None)
    whole = split(parted.assign(part=["train", "valid", "test", "train"] * 26), 42)
    assert elsewhere(whole) == 0 and whole.split.tolist() == whole.part.tolist()


def test_of_near_duplicates_in_two_parts_none_is_learnt_from(parted):
    names = {row.Index: row.file.stem for row in parted.itertuples() if row.label == "circle"}
    alike = [index for index, name in names.items() if name in ("3", "4", "41")]
    photos = split(parted.assign(group=parted.group.where(~parted.index.isin(alike), "alike")), 42)
    assert photos.split[alike].tolist() == ["valid"] * 3


def test_what_was_written_down_counts_more_than_a_folder(parted, tmp_path):
    """A photo of the test that somebody moves to the folder for training stays in the test."""
    kept = tmp_path / "split.csv"
    before = split(parted, 42, kept)
    after = split(parted.assign(part="train"), 42, kept)
    assert after.split.tolist() == before.split.tolist()


def test_of_two_copies_in_two_parts_the_one_that_is_not_learnt_from_stays(tmp_path):
    draw_folder(tmp_path / "train", 12, shapes=["circle", "square"])
    (tmp_path / "valid" / "circle").mkdir(parents=True)
    shutil.copy(tmp_path / "train" / "circle" / "1.png", tmp_path / "valid" / "circle" / "2.png")
    photos, odd = check_photos(tmp_path)
    assert odd.file.tolist() == [tmp_path / "train" / "circle" / "1.png"] and "second copy" in odd.why.item()
    assert photos.part.value_counts().to_dict() == {"train": 23, "valid": 1}


# Tables


def test_a_table_names_files_wherever_they_lie_and_the_rest_is_listed(tmp_path):
    names = ("a.png", "in/b.png", "in/deeper/c.png", "in/Bär 1.png", "in/spare.png", "other/1.png", "other/2.png")
    draw(*(tmp_path / name for name in names), tmp_path / "cats" / "x.png", tmp_path / "dogs" / "x.png")
    (tmp_path / "labels.csv").write_text(
        "Comment;Label;Image\n;cat;a.png\n;dog;photos\\in\\b.png\nblurred;cat;c\n;dog;./in/Ba\u0308r 1.png\n"
        ";cat;../../etc/passwd\n;dog;gone.png\n;;other/1.png\n;cat;x.png\n;cat;dogs/x.png\n;cat;a.png\n;cat;b\n",
        encoding="utf-8-sig",
    )
    assert found(tmp_path) == {
        "a.png": ("cat", None),
        "in/deeper/c.png": ("cat", None),
        "in/Bär 1.png": ("dog", None),
        "dogs/x.png": ("cat", None),
    }
    said = remarks(tmp_path)
    unknown = "names it, but no file is called so, or several are."
    assert said == {
        "../../etc/passwd": f"labels.csv, row 6, {unknown}",
        "gone.png": f"labels.csv, row 7, {unknown}",
        "other/1.png": "labels.csv says no label.",
        "x.png": f"labels.csv, row 9, {unknown}",
        "in/b.png": "labels.csv gives it several labels: cat, dog.",
        "in/spare.png": "labels.csv does not name it.",
        "other/2.png": "labels.csv does not name it.",
        "cats": "labels.csv names none of its files.",
        "labels.csv": "The labels are from this table, not from the names of folders.",
    }


@pytest.mark.parametrize("text, part", [
    ("1.png,cat\n2.png,dog\n", None),  # no headings
    ("id,breed\n1,cat\n2,dog\n", None),
    (",image_id,category\n0,1,cat\n1,2,dog\n", None),  # as pandas writes an index
    ("name\tlabel\tis_valid\n1.png\tcat\tFalse\n2.png\tdog\tFalse\n", "train"),
    ("filename,width,class,set\n1.png,96,cat,Validation\n2.png,96,dog,val\n", "valid"),
    ("label,class,file\ncat,7,1.png\ndog,8,2.png\n", None),
])  # fmt: skip
def test_tables_are_read_as_others_write_them(tmp_path, text, part):
    draw(tmp_path / "images" / "1.png", tmp_path / "images" / "2.png")
    (tmp_path / "train.csv").write_text(text)
    (tmp_path / "split.csv").write_text("sha256,split\n")
    assert found(tmp_path) == {"images/1.png": ("cat", part), "images/2.png": ("dog", part)}
    assert remarks(tmp_path) == {}


def test_a_table_may_write_names_in_upper_case_unless_that_would_be_another_file(tmp_path):
    draw(tmp_path / "img_1.png", tmp_path / "in" / "img_2.png", tmp_path / "x.png", tmp_path / "X.png")
    (tmp_path / "labels.csv").write_text("file,label\nIMG_1.PNG,cat\nIN/IMG_2.png,dog\nX.png,cat\nx.png,dog\n")
    assert found(tmp_path) == {
        "img_1.png": ("cat", None), "in/img_2.png": ("dog", None), "X.png": ("cat", None), "x.png": ("dog", None)
    }  # fmt: skip


def test_captions_are_no_labels(tmp_path):
    """As Hugging Face's folders have them, beside folders of labels."""
    draw(*(tmp_path / label / f"{label}{number}.png" for label in ("cat", "dog") for number in range(12)))
    rows = [f"{label}{number}.png,A {label} on mat {number}" for label in ("cat", "dog") for number in range(12)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    assert {label for label, _ in found(tmp_path).values()} == {"cat", "dog"}
    assert remarks(tmp_path)["metadata.csv"].startswith("It names photos. Which column has their labels?")


def test_a_table_without_headings_hides_no_row(tmp_path):
    draw(tmp_path / "2.png", tmp_path / "3.png")
    (tmp_path / "labels.csv").write_text("1.png,cat\n2.png,cat\n3.png,dog\n")
    assert len(found(tmp_path)) == 2 and "row 1, names it" in remarks(tmp_path)["1.png"]


def test_another_table_leaves_the_folders_of_labels_alone(tmp_path):
    draw(tmp_path / "cat" / "1.png", tmp_path / "dog" / "2.png")
    for name, text in {
        "notes.csv": "day,weather\nMonday,rain\n",
        "sizes.csv": "file,width,height\n1.png,96,96\n2.png,96,96\n",
        "empty.csv": "",
        "long.csv": "x" * 200_000,
    }.items():
        (tmp_path / name).write_text(text)
    assert found(tmp_path) == {"cat/1.png": ("cat", None), "dog/2.png": ("dog", None)}
    said = remarks(tmp_path)
    assert said["sizes.csv"] == "It names photos. Which column has their labels? Call it label."
    assert {name for name, why in said.items() if why == "It is in no label's folder."} >= {"notes.csv", "empty.csv"}
    assert len(said) == 4


def test_of_several_tables_the_one_called_labels_counts(tmp_path):
    draw(tmp_path / "train" / "1.png", tmp_path / "train" / "2.png", tmp_path / "test" / "3.png")
    (tmp_path / "train.csv").write_text("id,label\n1,cat\n2,dog\n")
    (tmp_path / "submission.csv").write_text("id,label\n3,cat\n")
    with pytest.raises(TrainingError, match="submission.csv and train.csv in .* Leave only one of them there"):
        find(tmp_path)
    (tmp_path / "train.csv").rename(tmp_path / "labels.csv")
    assert found(tmp_path) == {"train/1.png": ("cat", "train"), "train/2.png": ("dog", "train")}
    assert remarks(tmp_path)["test"] == "labels.csv names none of its files."


@pytest.mark.parametrize("text", [
    "id,image,label\n0,3.png,dog\n1,2.png,cat\n2,1.png,cat\n3,0.png,dog\n",
    ",image,label\n0,3,dog\n1,2,cat\n2,1,cat\n3,0,dog\n",
    "sep=;\nlabel;image\ndog;3.png\ncat; 2.png\ncat;1.png\ndog;0.png\n",
    'image, label\n"3.png", "dog"\n"2.png", "cat"\n1.png,cat\n0.png,dog\n',
])  # fmt: skip
def test_numbers_of_rows_are_not_taken_for_files(tmp_path, text):
    draw(*(tmp_path / "images" / f"{number}.png" for number in range(4)))
    (tmp_path / "images" / "1.txt").write_text("boxes")
    (tmp_path / "labels.csv").write_text(text)
    labels = {name: label for name, (label, _) in found(tmp_path).items()}
    assert labels == {"images/0.png": "dog", "images/1.png": "cat", "images/2.png": "cat", "images/3.png": "dog"}


def test_labels_may_be_numbers_that_files_are_called_by_too(tmp_path):
    draw(*(tmp_path / f"{number}.png" for number in range(6)))
    rows = [f"{number % 2},{number}.png" for number in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["kind,image", *rows]))
    assert {label for label, _ in found(tmp_path).values()} == {"0", "1"} and len(found(tmp_path)) == 6


def test_a_camera_trap_s_table_names_folder_and_file(tmp_path):
    draw(*(tmp_path / station / f"RCNX{number}.png" for station in ("north", "south") for number in range(2)))
    (tmp_path / "observations.csv").write_text(
        "File,RelativePath,Species\nRCNX0.png,north,elk\nRCNX1.png,north,bear\nRCNX0.png,south,bear\nRCNX1.png,south,elk\n"
    )
    assert {name: label for name, (label, _) in found(tmp_path).items()} == {
        "north/RCNX0.png": "elk", "north/RCNX1.png": "bear", "south/RCNX0.png": "bear", "south/RCNX1.png": "elk"
    }  # fmt: skip
    assert remarks(tmp_path)["observations.csv"].startswith("The labels are from this table")


def test_notes_beside_folders_of_labels_are_no_labels(tmp_path):
    draw(*(tmp_path / label / f"{label}{number}.png" for label in ("cat", "dog") for number in range(12)))
    rows = [f"{label}{number}.png,{'Ann' if number % 2 else 'Bob'}" for label in ("cat", "dog") for number in range(12)]
    (tmp_path / "sources.csv").write_text("\n".join(["file,photographer", *rows]))
    assert {label for label, _ in found(tmp_path).values()} == {"cat", "dog"}
    assert remarks(tmp_path) == {"sources.csv": "It names photos. Which column has their labels? Call it label."}


def test_a_table_that_does_not_fit_is_said_and_one_called_labels_stops(tmp_path):
    draw(*(tmp_path / label / f"{number}.png" for label in ("cat", "dog") for number in range(3)))
    rows = "\n".join(f"{number},cat" for number in range(2, 40))
    (tmp_path / "list.csv").write_text(f"id,label\n{rows}\n")
    draw(tmp_path / "cat" / "9.png")
    assert remarks(tmp_path)["list.csv"] == "1 of its 39 rows name one of the photos here, so it is not used."
    (tmp_path / "list.csv").rename(tmp_path / "labels.csv")
    with pytest.raises(TrainingError, match="labels.csv: 1 of its 39 rows name.*is each there once"):
        find(tmp_path)


def test_photos_for_training_and_test_without_labels_are_no_labels(tmp_path):
    draw(tmp_path / "train" / "cat.0.png", tmp_path / "test" / "dog.1.png")
    with pytest.raises(TrainingError, match="test and train in .* hold photos without labels.*labels.csv"):
        find(tmp_path)


def test_of_several_parts_the_strictest_holds_and_a_word_that_nobody_knows_is_said(tmp_path):
    draw(tmp_path / "1.png", tmp_path / "2.png")
    (tmp_path / "labels.csv").write_text(
        "file,label,split\n1.png,cat,test\n1.png,cat,train\n1.png,cat,\n2.png,dog,\n2.png,,val\n"
    )
    assert found(tmp_path) == {"1.png": ("cat", "test"), "2.png": ("dog", "valid")} and remarks(tmp_path) == {}
    (tmp_path / "labels.csv").write_text("file,label,is_valid\n1.png,cat,WAHR\n2.png,dog,FALSCH\n")
    assert found(tmp_path) == {"1.png": ("cat", "valid"), "2.png": ("dog", "train")}
    (tmp_path / "labels.csv").write_text("file,label,is_valid\n1.png,cat,perhaps\n2.png,dog,no\n")
    with pytest.raises(TrainingError, match="row 2: 'perhaps' is no part"):
        find(tmp_path)


def test_pipes_and_what_may_not_be_looked_at_do_not_stop_it(tmp_path, monkeypatch):
    draw(tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png")
    os.mkfifo(tmp_path / "labels.csv")
    looked = Path.stat

    def refused(path, **options):  # as in a folder that may be read and not be entered
        if path.parent.name == "dog":
            raise PermissionError(errno.EACCES, "Permission denied")
        return looked(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    assert found(tmp_path) == {"cat/1.png": ("cat", None)}
    assert remarks(tmp_path)["dog/1.png"] == "It cannot be read: Permission denied."


def test_a_part_that_is_none_is_said(tmp_path):
    draw(tmp_path / "1.png", tmp_path / "2.png")
    (tmp_path / "labels.csv").write_text("file,label,split\n1.png,cat,train\n2.png,dog,holdout\n")
    with pytest.raises(TrainingError, match="labels.csv, row 3: 'holdout' is no part. There are train, valid and test"):
        find(tmp_path)


def test_folders_that_go_round_in_a_circle_end(tmp_path):
    draw(tmp_path / "in" / "1.png", tmp_path / "in" / "2.png")
    (tmp_path / "in" / "again").symlink_to(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\nin/1.png,cat\nin/2.png,dog\n")
    for number in range(5):
        (tmp_path / f"round{number}").symlink_to(tmp_path)
    assert found(tmp_path) == {"in/1.png": ("cat", None), "in/2.png": ("dog", None)}
    assert remarks(tmp_path)["round0"] == "It leads back to a folder around it."
