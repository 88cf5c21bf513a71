"""python -m bears: what is on each of many photos, for people and for programs."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, draw_bear, encode

from bears.__main__ import main, write_csv, write_text
from bears.classifier import Answer, Classifier


@pytest.fixture(scope="module")
def trap(tmp_path_factory):
    """A camera trap's card: folders in folders, and what does not belong there."""
    folder = tmp_path_factory.mktemp("trap")
    (folder / "day 1" / ".thumbs").mkdir(parents=True)
    for name in ("a.jpg", "day 1/b", "day 1/c,d\r\n.jpg", "day 1/.thumbs/e.jpg", ".f.jpg"):
        (folder / name).write_bytes(encode(draw_bear(200), "JPEG"))
    (folder / "day 1" / "notes.txt").write_text("no photo")
    return folder


def bears(*arguments, folder=ROOT):
    """What it prints, line endings and all."""
    run = subprocess.run([sys.executable, "-m", "bears", *map(str, arguments)], cwd=folder, capture_output=True)
    run.stdout, run.stderr = run.stdout.decode(), run.stderr.decode()
    return run


def test_every_file_gets_a_line_and_what_is_no_photo_stops_no_other(trap):
    run = bears(trap, trap / "missing.jpg")
    expected = Classifier.load(ROOT / "export.pkl").classify(trap / "a.jpg")
    assert f"a.jpg: {expected.label}  {expected.probability:.4f}  novelty {expected.novelty:.2f}\n" in run.stdout
    assert f"{trap}/day 1/b: {expected.label}" in run.stdout
    assert r"/day 1/c,d\r\n.jpg: teddy" in run.stdout, "in one line"
    assert "notes.txt: This file is not a picture" in run.stdout
    assert "missing.jpg cannot be read: No such file" in run.stdout
    assert ".thumbs" not in run.stdout and ".f.jpg" not in run.stdout
    assert run.returncode == 1 and run.stderr == ""


def test_for_programs_there_are_csv_and_json(trap):
    rows = list(csv.DictReader(io.StringIO(bears("--csv", trap).stdout, newline="")))
    found = json.loads(bears("--json", trap).stdout)
    names = [f"{trap}/{name}" for name in ("a.jpg", "day 1/b", "day 1/c,d\r\n.jpg", "day 1/notes.txt")]
    assert [row["file"] for row in rows] == [row["file"] for row in found] == names
    for row, same in zip(rows[:3], found[:3], strict=True):
        assert row["label"] == same["label"] == "teddy"
        assert float(row["probability"]) == same["probability"] == same["probabilities"]["teddy"]
        assert float(row["novelty"]) == same["novelty"]
    assert rows[3]["label"] == "" and "label" not in found[3]
    assert rows[3]["remark"] == found[3]["remark"] != ""


def test_nothing_but_photos_is_a_success(trap):
    run = bears("--json", trap / "a.jpg")
    assert run.returncode == 0 and len(json.loads(run.stdout)) == 1


def test_an_empty_folder_is_an_empty_list(tmp_path):
    run = bears("--json", tmp_path)
    assert json.loads(run.stdout) == [] and run.stderr == "There are no files there.\n"


def test_a_folder_that_cannot_be_read_is_named(trap, monkeypatch, capsys):
    scandir = os.scandir

    def refused(folder):
        if Path(folder).name == "day 1":  # whose permissions would not stop root, who runs tests in containers
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.chdir(ROOT)
    assert main([str(trap)]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    assert f"{trap / 'day 1'} cannot be read: Permission denied." in printed.err


def test_a_pipe_in_a_folder_does_not_stop_the_others(trap, tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    shutil.copy(trap / "a.jpg", tmp_path / "b.jpg")
    run = bears(tmp_path)
    assert (
        f"{tmp_path / 'a.jpg'} cannot be read: it is a folder or a pipe." in run.stdout and "b.jpg: teddy" in run.stdout
    )


def test_without_a_classifier_it_says_so(trap, tmp_path):
    run = bears("--export", tmp_path / "export.pkl", trap)
    assert run.returncode == 2 and "There is no" in run.stderr and run.stdout == ""


def test_a_reader_that_has_enough_gets_no_complaint(trap):
    files = f"{trap}/a.jpg " * 50
    command = f"{sys.executable} -m bears --csv {files} | head -n 1"
    run = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.startswith("file,") and run.stderr == ""


def test_links_to_folders_are_followed_but_not_in_circles(trap, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "trap").symlink_to(trap)
    (tmp_path / "all" / "again").symlink_to(tmp_path / "all")
    run = bears(tmp_path / "all")
    assert run.stdout.count(": teddy") == 3


def test_the_name_of_a_file_is_no_formula_and_what_is_no_path_has_a_line(tmp_path):
    (tmp_path / "=1+1.jpg").write_bytes(encode(draw_bear(200), "JPEG"))
    run = bears("--csv", f"--export={ROOT / 'export.pkl'}", ".", "=2", "x" * 300, folder=tmp_path)
    rows = list(csv.DictReader(io.StringIO(run.stdout)))
    assert [row["file"] for row in rows] == ["./=1+1.jpg", "./=2", "x" * 300]
    assert rows[0]["label"] == "teddy" and rows[1]["remark"].startswith("./=2 cannot be read")
    assert "File name too long" in rows[2]["remark"]


def test_what_cannot_be_ruled_out_and_what_was_looked_at_is_in_the_table(capsys):
    probabilities = {"a": 0.6, "b": 0.39, "c": 0.01}
    rows = [
        (Path("torn.jpg"), Answer("a", 0.6, probabilities, 0.5, True, ("a", "b"), (0.1, 0.25, 0.5, 1.0)), ""),
        (Path("sure.jpg"), Answer("a", 0.6, probabilities, 0.5, True, ("a",)), ""),
        (Path("unknown.jpg"), Answer("a", 0.6, probabilities, 0.5, True), ""),
    ]
    write_text(rows)
    assert capsys.readouterr().out.splitlines() == [
        "torn.jpg: a  0.6000  perhaps b  novelty 0.50", "sure.jpg: a  0.6000  novelty 0.50",
        "unknown.jpg: a  0.6000  novelty 0.50",
    ]  # fmt: skip
    write_csv(rows)
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["plausible"] for row in table] == ["a; b", "a", ""]
    assert [row["part"] for row in table] == ["0.100; 0.250; 0.500; 1.000", "", ""]
