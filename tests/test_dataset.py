"""bears.training.dataset: odd photos are listed, decisions kept, and no look-alikes on both sides of a split."""

import errno
import hashlib
import itertools
import os
import random
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import draw_folder, draw_shape, encode
from PIL import Image

from bears.training import TrainingError
from bears.training.dataset import (
    DELETE,
    apply_decisions,
    check_photos,
    check_strangers,
    counts,
    decide,
    read_decisions,
    split,
)
from bears.training.layouts import photo_files


def sha256(file) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def why(remarks, name: str) -> str:
    """The remark on the one file of that name."""
    (text,) = remarks.why[[file.name == name for file in remarks.file]]
    return text


# Check


def test_photos_are_found_whatever_else_lies_there(tmp_path):
    draw_folder(tmp_path, 12)
    (tmp_path / "circle" / ".DS_Store").write_bytes(b"not for us")
    (tmp_path / "manifest.csv").write_text("not in a label's folder")
    photos, remarks = check_photos(tmp_path)
    assert photos.label.value_counts().to_dict() == {"circle": 12, "square": 12, "triangle": 12}
    assert len(photo_files(tmp_path)) == 36 and remarks.empty


def test_what_lies_around_the_photos_is_listed(tmp_path):
    draw_folder(tmp_path, 12)
    (tmp_path / "loose.jpg").write_bytes(encode(draw_shape("circle", 99), "JPEG"))
    (tmp_path / "star").mkdir()
    (tmp_path / "circle" / "gone.jpg").symlink_to(tmp_path / "missing.jpg")
    os.mkfifo(tmp_path / "circle" / "pipe.jpg")
    for noise in (".DS_Store", "Thumbs.db", "desktop.ini", "._1.png"):
        (tmp_path / "circle" / noise).write_bytes(b"not for us")
    (tmp_path / "__MACOSX" / "circle").mkdir(parents=True)
    photos, remarks = check_photos(tmp_path)
    assert len(photos) == 36 and remarks.left_out.all()
    assert {file.name: why.split(":")[0] for file, why in zip(remarks.file, remarks.why, strict=True)} == {
        "loose.jpg": "It is in no label's folder.",
        "star": "An empty folder",
        "gone.jpg": "It is a link to a file that is not there.",
        "pipe.jpg": "It is no file.",
    }


def test_a_folder_without_permission_is_listed_and_what_there_is_instead_of_photos(tmp_path, monkeypatch):
    draw_folder(tmp_path, 12)
    listed = Path.iterdir

    def refused(folder):  # permissions would not stop root, who runs tests in containers
        if folder.name == "circle":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    _, remarks = check_photos(tmp_path)
    assert why(remarks, "circle") == "This folder cannot be read: Permission denied."
    for label in ("square", "triangle"):
        shutil.rmtree(tmp_path / label)
    with pytest.raises(TrainingError, match="(?s)There are no photos in .*circle: This folder cannot be read"):
        check_photos(tmp_path)


def test_a_video_beside_the_photos_is_not_read(tmp_path):
    draw_folder(tmp_path, 12)
    with open(tmp_path / "circle" / "film.mp4", "wb") as video:
        video.truncate(3 * 2**30)  # which takes no room on the disk
    tracemalloc.start()
    _, remarks = check_photos(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "larger than 64 MB" in why(remarks, "film.mp4") and peak < 2**26


def test_labels_that_differ_in_case_or_in_code_only_are_one(tmp_path):
    draw_folder(tmp_path, 12, shapes=["circle", "square"])
    for number, name in enumerate(["Circle", "a\u0308", "\u00e4", "\u00c4"]):
        (tmp_path / name).mkdir()
        for one in range(10 + number):
            draw_shape("triangle", f"{name} {one}").save(tmp_path / name / f"{one}.png")
    photos, remarks = check_photos(tmp_path)
    assert photos.label.value_counts().to_dict() == {"circle": 22, "square": 12, "\u00c4": 36}
    assert why(remarks, "Circle").startswith("Circle counts as circle, which differs only in upper")
    assert all(why(remarks, name).startswith(f"{name} counts as \u00c4, ") for name in ("a\u0308", "\u00e4"))
    assert not remarks.left_out.any()


@pytest.mark.parametrize("label", ["brown bear", "Braunbär", "日本", "a'b\"c", "100%", "گرگ\u200cها"])
def test_a_label_may_be_any_name_of_a_folder(tmp_path, label):
    draw_folder(tmp_path, 12, shapes=["circle", "square"])
    (tmp_path / "circle").rename(tmp_path / label)
    assert set(check_photos(tmp_path)[0].label) == {label, "square"}


def test_what_is_left_out_is_listed_with_the_reason_and_nothing_is_deleted(tmp_path):
    draw_folder(tmp_path, 14)
    (tmp_path / "circle" / "notes.txt").write_text("all mine")
    (tmp_path / "square" / "3.png").write_bytes(b"")
    draw_shape("circle", 99, size=40).save(tmp_path / "circle" / "tiny.png")
    (tmp_path / "circle" / "page.jpg").write_text("<html>moved</html>")
    shutil.copy(tmp_path / "triangle" / "1.png", tmp_path / "triangle" / "copy.png")
    (tmp_path / "square" / "inside").mkdir()
    before = sorted(tmp_path.rglob("*"))
    photos, remarks = check_photos(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert "not a picture" in why(remarks, "notes.txt") and "not a picture" in why(remarks, "page.jpg")
    assert "empty" in why(remarks, "3.png")
    assert "40 × 40" in why(remarks, "tiny.png")
    assert "second copy" in why(remarks, "copy.png")
    assert "folder inside" in why(remarks, "inside")
    assert remarks.left_out.all() and len(remarks) == 6
    assert set(photos.file).isdisjoint(remarks.file) and len(photos) == 41


def test_the_same_file_with_two_labels_is_no_example_of_either(tmp_path):
    draw_folder(tmp_path, 14)
    shutil.copy(tmp_path / "circle" / "1.png", tmp_path / "square" / "round.png")
    photos, remarks = check_photos(tmp_path)
    assert "another label" in why(remarks, "round.png")
    assert sorted(remarks.file) == [tmp_path / "circle" / "1.png", tmp_path / "square" / "round.png"]
    assert len(photos) == 41


def test_photos_that_lie_on_their_side_are_named(tmp_path):
    draw_folder(tmp_path, 12)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "circle" / "turned.jpg").write_bytes(encode(draw_shape("circle", 99), "JPEG", exif=exif))
    photos, remarks = check_photos(tmp_path)
    assert "EXIF orientation 6" in why(remarks, "turned.jpg") and not remarks.left_out.any()
    assert len(photos) == 37


def test_no_photos(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TrainingError, match=rf"There are no photos in {folder}\. Put them in one folder for each"):
            check_photos(folder)


def test_one_label(tmp_path):
    draw_folder(tmp_path, 12, shapes=["circle"])
    with pytest.raises(TrainingError, match="the label 'circle'.*at least two labels"):
        check_photos(tmp_path)


def test_no_usable_photo(tmp_path):
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "1.jpg").write_bytes(b"")
    with pytest.raises(TrainingError, match="(?s)No photo in .* can be used.*1.jpg: This file is empty"):
        check_photos(tmp_path)


def test_one_photo_of_a_label_and_why_there_are_so_few(tmp_path):
    draw_folder(tmp_path, 12)
    for file in sorted((tmp_path / "square").iterdir())[1:]:
        file.write_bytes(b"")
    with pytest.raises(TrainingError, match="(?s)square: 1.*at least 10.*Left out were 11 files.*empty"):
        check_photos(tmp_path)


def test_strangers_are_looked_at_as_photos_are(tmp_path):
    draw_folder(tmp_path / "strangers", 3, shapes=["circle", "square"])
    (tmp_path / "strangers" / "square" / "notes.txt").write_text("not a photo")
    strangers, remarks = check_strangers(tmp_path / "strangers")
    assert strangers.label.value_counts().to_dict() == {"circle": 3, "square": 3}
    assert remarks.file.tolist() == [tmp_path / "strangers" / "square" / "notes.txt"]
    assert "not a picture" in remarks.why.item()


def test_without_strangers_there_are_none(tmp_path):
    strangers, remarks = check_strangers(tmp_path / "strangers")
    assert len(strangers) == len(remarks) == 0
    assert list(strangers.groupby("label")) == []


# Near-duplicates and the split


def blotches(rng: np.random.Generator) -> Image.Image:
    """A picture with structure everywhere, so that two of them hardly ever look alike."""
    small = Image.fromarray(rng.integers(0, 256, (7, 7), dtype=np.uint8))
    return small.resize((160, 160), Image.Resampling.BICUBIC).convert("RGB")


@pytest.fixture
def look_alikes(tmp_path):
    """40 pictures of each of two labels; of ten of them a smaller, a mirrored and a brighter copy."""
    rng = np.random.default_rng(0)
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        for number in range(40):
            picture = blotches(rng)
            picture.save(tmp_path / label / f"{number}.png")
            if number < 10:
                picture.resize((100, 100)).save(tmp_path / label / f"{number}-small.jpg", quality=80)
                picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / label / f"{number}-mirrored.png")
                picture.point(lambda level: min(255, int(level * 1.15))).save(tmp_path / label / f"{number}-bright.png")
    return check_photos(tmp_path)[0]


def test_look_alikes_are_one_group_and_others_are_not(look_alikes):
    sizes = look_alikes.groupby("group").size()
    assert (sizes == 4).sum() >= 18, "a picture and its three copies, for 20 pictures"
    assert len(sizes) >= 70, "80 pictures"


def test_no_group_is_on_both_sides_of_a_split(look_alikes):
    for seed in range(10):
        photos = split(look_alikes, seed)
        assert photos.groupby("group").split.nunique().max() == 1


def test_the_split_is_the_same_again_and_another_with_another_seed(look_alikes):
    shuffled = look_alikes.sample(frac=1, random_state=1)
    again = split(shuffled, 42).sort_index()
    assert split(look_alikes, 42).split.tolist() == again.split.tolist()
    assert split(look_alikes, 43).split.tolist() != again.split.tolist()


def test_photos_that_are_left_out_later_move_no_other_one(look_alikes):
    whole = split(look_alikes, 42).set_index("file").split
    part = split(look_alikes.drop(index=range(0, len(look_alikes), 7)), 42).set_index("file").split
    assert (whole[part.index] == part).all()


def test_every_label_is_in_every_part_even_of_few_photos(tmp_path):
    draw_folder(tmp_path, 10, shapes=["circle", "square", "triangle"])
    photos, _ = check_photos(tmp_path)
    photos["group"] = photos.sha256  # drawings as simple as these look alike
    for seed in range(20):
        table = counts(split(photos, seed))
        assert (table > 0).all(axis=None)
        assert (table["train"] + table["valid"] + table["test"] == table["all"]).all()


def test_the_shares_are_about_as_stated(tmp_path):
    draw_folder(tmp_path, 150, shapes=["circle", "square"])
    photos, _ = check_photos(tmp_path)
    photos["group"] = photos.sha256
    shares = split(photos, 42).split.value_counts(normalize=True)
    assert 0.6 < shares["train"] < 0.8 and 0.1 < shares["valid"] < 0.2 and 0.1 < shares["test"] < 0.2


def test_photos_that_are_all_alike_cannot_be_split(tmp_path):
    draw_folder(tmp_path, 12, shapes=["circle", "square"])
    photos, _ = check_photos(tmp_path)
    photos["group"] = photos.label
    with pytest.raises(TrainingError, match="photos of circle are all alike"):
        split(photos, 42)


def digest(name) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def pairs(*names) -> pd.DataFrame:
    """For each name two photos that look alike, in a group that is called by the smaller SHA-256 of those there are."""
    rows = [("ab"[number % 2], digest((name, one)), name) for number, name in enumerate(names) for one in (0, 1)]
    return grouped(pd.DataFrame(rows, columns=["label", "sha256", "name"]))


def grouped(photos: pd.DataFrame) -> pd.DataFrame:
    return photos.assign(group=photos.sha256.groupby(photos.name).transform("min"))


def test_a_kept_split_moves_no_photo_whatever_is_added_or_left_out(tmp_path):
    kept = tmp_path / "split.csv"
    photos = pairs(*range(60))
    before = split(photos, 42, kept).set_index("sha256").split
    fewer = grouped(photos[photos.sha256 != photos.group])  # all groups have another name now
    more = pd.concat([fewer, pairs(*range(60, 90)).assign(label="c")], ignore_index=True)
    without = split(more, 42).set_index("sha256").split
    assert (without[fewer.sha256] != before[fewer.sha256]).any(), "or this test says nothing"
    after = split(more, 43, kept).set_index("sha256").split
    assert (after[fewer.sha256] == before[fewer.sha256]).all()
    assert (pd.crosstab(more.label, after[more.sha256].to_numpy()) > 0).all(axis=None)
    rows = kept.read_text().splitlines()
    assert rows[0] == "sha256,split" and len(rows) == 1 + 120 + 60
    split(more, 44, kept)
    assert kept.read_text().splitlines() == rows, "nothing is new"


def test_a_new_photo_that_looks_like_one_of_the_test_is_for_the_test(tmp_path):
    kept = tmp_path / "split.csv"
    photos = pairs(*range(60))
    before = split(photos, 42, kept)
    tested, learnt = (before[before.split == part].iloc[0] for part in ("test", "train"))
    bridge = pd.DataFrame({"label": ["a"], "sha256": [digest("new")], "name": [tested["name"]]})
    photos = pd.concat([photos, bridge]).replace({"name": {learnt["name"]: tested["name"]}})  # it looks like both
    after = split(grouped(photos.reset_index(drop=True)), 42, kept).set_index("sha256").split
    assert after[digest("new")] == "test"
    assert (after[before.sha256] == before.set_index("sha256").split).all()


def test_of_two_rows_for_a_photo_the_first_counts_and_what_is_no_split_is_said(tmp_path):
    kept = tmp_path / "split.csv"
    photos = pairs(*range(60))
    split(photos, 42, kept)
    whole = kept.read_text()
    first = whole.splitlines()[1].split(",")
    kept.write_text(f"{whole}{first[0]},{'train' if first[1] != 'train' else 'test'}")  # no end of the line, either
    split(pairs(*range(61)), 42, kept)
    assert split(photos, 42, kept).set_index("sha256").split[first[0]] == first[1]
    for damaged in ("", "file,part\n", whole.replace(",train", ",Train")):
        kept.write_text(damaged)
        with pytest.raises(TrainingError, match="is damaged: its columns are sha256,split"):
            split(photos, 42, kept)


def test_where_the_split_cannot_be_kept_it_says_so(tmp_path, monkeypatch):
    def refused(contents):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("bears.training.dataset.write_whole", refused)
    with pytest.warns(UserWarning, match="cannot be written [(]Read-only file system[)], so nothing keeps"):
        parts = split(pairs(*range(60)), 42, tmp_path / "split.csv")
    assert set(parts.split) == {"train", "valid", "test"}


def test_a_label_whose_photos_are_all_written_down_in_one_part_says_so(tmp_path):
    kept = tmp_path / "split.csv"
    photos = pairs(*range(60))
    kept.write_text("sha256,split\n" + "".join(f"{sha256},train\n" for sha256 in photos.sha256[photos.label == "a"]))
    with pytest.raises(TrainingError, match="photos of a are all alike, or their parts are written down"):
        split(photos, 42, kept)


# Decisions


def test_decisions_are_applied_and_listed_and_applied_again_the_same(tmp_path):
    folder, cleaning = draw_folder(tmp_path / "photos", 14), tmp_path / "cleaning.csv"
    wrong, no_example = folder / "circle" / "1.png", folder / "square" / "2.png"
    decide(cleaning, sha256(wrong), "circle", "triangle", "three corners")
    decide(cleaning, sha256(no_example), "square", DELETE, "blurred")
    photos, remarks = check_photos(folder, cleaning)
    assert photos.set_index("file").label[wrong] == "triangle" and no_example not in set(photos.file)
    assert why(remarks, "1.png") == "cleaning: triangle, three corners"
    assert why(remarks, "2.png") == "cleaning: left out, blurred"
    assert wrong.exists() and no_example.exists()

    for file in (wrong, no_example):  # another name, the same photo
        file.rename(file.with_name(f"9{file.name}"))
    again, _ = check_photos(folder, cleaning)
    assert sorted(zip(again.sha256, again.label, strict=True)) == sorted(zip(photos.sha256, photos.label, strict=True))


def test_the_file_of_decisions_does_not_depend_on_their_order(tmp_path):
    decisions = [
        ("a" * 64, "one", "two", "x"),
        ("b" * 64, "one", DELETE, 'with a comma, a "quote"'),
        ("c" * 64, "two", "one", ""),
    ]
    for name, order in ("first", decisions), ("second", decisions[::-1]):
        for decision in order:
            decide(tmp_path / name, *decision)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert read_decisions(tmp_path / "first")["b" * 64]["reason"] == 'with a comma, a "quote"'


def test_the_last_decision_counts_and_can_be_taken_back(tmp_path):
    cleaning = tmp_path / "cleaning.csv"
    decide(cleaning, "a" * 64, "one", DELETE)
    decide(cleaning, "a" * 64, "one", "two")
    assert read_decisions(cleaning)["a" * 64]["to"] == "two"
    decide(cleaning, "a" * 64, "one", None)
    assert read_decisions(cleaning) == {}


def test_decisions_on_other_photos_do_nothing(tmp_path):
    draw_folder(tmp_path / "photos", 12)
    photos, _ = check_photos(tmp_path / "photos")
    decide(tmp_path / "cleaning.csv", "0" * 64, "circle", DELETE)
    kept, changed = apply_decisions(photos, tmp_path / "cleaning.csv")
    assert kept.equals(photos) and changed.empty


def test_a_file_that_is_no_file_of_decisions(tmp_path):
    draw_folder(tmp_path / "photos", 12)
    (tmp_path / "cleaning.csv").write_text("file;label\n")
    with pytest.raises(TrainingError, match="does not begin with the line sha256,from,to,reason"):
        check_photos(tmp_path / "photos", tmp_path / "cleaning.csv")


SAVED = {
    "semicolons": ("sha256;from;to;reason\r\n{sha256};one;two;Bär, klein\r\n", "utf-8"),
    "a mark at the beginning": ('sha256,from,to,reason\n{sha256},one,two,"Bär, klein"\n', "utf-8-sig"),
    "semicolons in Latin-1": ("sha256;from;to;reason\r\n{sha256};one;two;Bär, klein\r\n;;;\r\n", "cp1252"),
    "tabs in UTF-16": ("sha256\tfrom\tto\treason\r\n{sha256}\tone\ttwo\tBär, klein\r\n", "utf-16"),
    "another order": ('"To","from","reason","SHA256","who"\n"two","one","Bär, klein","{sha256}","Ann"\n', "utf-8"),
    "short rows": ('reason,from,to,sha256\n"Bär, klein",one,two,{sha256}\n\n,,\n', "utf-8"),
}


@pytest.mark.parametrize("how", SAVED)
def test_decisions_are_read_however_a_spreadsheet_saved_them(tmp_path, how):
    text, encoding = SAVED[how]
    cleaning = tmp_path / "cleaning.csv"
    cleaning.write_bytes(text.format(sha256="A1" * 32).encode(encoding))
    assert read_decisions(cleaning) == {
        "a1" * 32: {"sha256": "a1" * 32, "from": "one", "to": "two", "reason": "Bär, klein"}
    }
    decide(cleaning, "b" * 64, "one", DELETE)
    assert cleaning.read_text(encoding="utf-8").startswith("sha256,from,to,reason\n")
    assert len(read_decisions(cleaning)) == 2


@pytest.mark.parametrize("text, sentence", [
    ("", "does not begin with the line sha256,from,to,reason"),
    ("sha256,from,to\n", "reason is missing"),
    ("sha256,from,to,reason\n1.23E+63,one,two,x\n", "row 2: '1.23e[+]63' is no SHA-256"),
    ("sha256,from,to,reason\n{sha256},one,two,x\n{sha256},one,,x\n", "row 3: it does not say what"),
    ("{sha256},one,two,x\n", "does not begin with the line"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_of_decisions_is_said(tmp_path, text, sentence):
    (tmp_path / "cleaning.csv").write_text(text.format(sha256="a" * 64))
    with pytest.raises(TrainingError, match=sentence):
        read_decisions(tmp_path / "cleaning.csv")


def test_a_label_may_be_called_all_and_a_name_that_is_no_text_is_refused(tmp_path):
    draw_folder(tmp_path, 12, shapes=["circle", "square"])
    (tmp_path / "circle").rename(tmp_path / "all")
    photos, _ = check_photos(tmp_path)
    table = counts(split(photos, 42))
    assert table["all"].tolist() == [12, 12, 24] and [*table.index] == ["all", "square", "all"]
    (tmp_path / "square").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    with pytest.raises(TrainingError, match=r"is no text. Please rename it"):
        check_photos(tmp_path)


@pytest.mark.parametrize("seed", range(60))
def test_no_label_is_left_without_photos_where_labels_share_groups(seed):
    rng = random.Random(seed)
    labels, groups = ["a", "b", "c"][: rng.randint(2, 3)], [hashlib.sha256(b"%d" % n).hexdigest() for n in range(6)]
    rows = [(label, group) for label in labels for group in rng.sample(groups, rng.randint(3, 5))]
    photos = pd.DataFrame(rows * 3, columns=["label", "group"])
    possible = any(
        all(len({part[group] for one, group in rows if one == label}) == 3 for label in labels)
        for part in (dict(zip(groups, parts, strict=True)) for parts in itertools.product(range(3), repeat=6))
    )
    if not possible:
        with pytest.raises(TrainingError, match="near-duplicates hang together, of a, "):
            split(photos, 42)
        return
    parts = split(photos, 42)
    assert (pd.crosstab(parts.label, parts.split) > 0).all(axis=None)
    assert parts.groupby("group").split.nunique().max() == 1
