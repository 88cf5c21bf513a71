"""python -m bears photo.jpg folder/: what is on each photo, for those who have more than a page takes.

Each line is printed as soon as it is known. Files in folders, and in those inside, are taken whatever their names;
hidden ones are left out. The exit status is 1 if some file or folder could not be read, and 2 without a classifier.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from bears.classifier import BATCH, Answer, Classifier, ExportError
from bears.photos import PhotoError, open_photo, remarks

COLUMNS = "file label probability novelty recognised remark".split()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bears", description="Name what is on photos.")
    parser.add_argument("photos", nargs="+", metavar="photo", type=Path, help="a file, or a folder with files in it")
    parser.add_argument("--export", default="export.pkl", help="the classifier; its MODEL_CARD.md lies beside it")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--csv", action="store_true", help="as a table for programs")
    how.add_argument("--json", action="store_true", help="as a list for programs, with the probability of every label")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files are not always text
    try:
        classifier = Classifier.load(options.export)
    except ExportError as error:
        print(error, file=sys.stderr)
        return 2
    unreadable: list[OSError] = []
    files = list(found(options.photos, unreadable))
    for error in unreadable:
        print(f"{error.filename} cannot be read: {error.strerror}.", file=sys.stderr)
    if not files:
        print("There are no files there.", file=sys.stderr)
    write = write_csv if options.csv else write_json if options.json else write_text
    failed = write(tqdm(answers(classifier, files), total=len(files), unit="photo", disable=None, leave=False))
    return int(failed > 0 or bool(unreadable))


def found(paths: list[Path], unreadable: list[OSError]) -> Iterator[Path]:
    """The files; what comes of folders that cannot be read is added to `unreadable`."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, inner, files in os.walk(path, onerror=unreadable.append):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def answers(classifier: Classifier, files: list[Path]) -> Iterator[tuple[Path, Answer | None, str]]:
    """Each file with its answer, or none, and what is to be said of it; a few are opened at once."""
    rest = iter(files)
    while some := list(islice(rest, BATCH)):
        opened = [_opened(file) for file in some]
        named = iter(classifier.classify([picture for picture, _ in opened if picture]))
        for file, (picture, remark) in zip(some, opened, strict=True):
            yield file, next(named) if picture else None, remark


def _opened(file: Path):
    try:
        picture = open_photo(file)
    except PhotoError as error:
        return None, str(error)
    return picture, " ".join(remarks(picture))


def write_text(rows) -> int:
    failed = 0
    for file, answer, remark in rows:
        if answer is None:
            failed += 1
            said = remark
        elif answer.recognised is False:  # its probability would mislead: it only compares the labels
            said = f"like nothing it was taught; closest: {answer.label}  novelty {answer.novelty:.2f}  {remark}"
        else:
            novelty = "" if answer.novelty is None else f"  novelty {answer.novelty:.2f}"
            said = f"{answer.label}  {answer.probability:.4f}{novelty}  {remark}"
        tqdm.write(f"{file}: {said}".rstrip(), file=sys.stdout)
        sys.stdout.flush()
    return failed


def write_csv(rows) -> int:
    failed = 0
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    table.writeheader()
    for file, answer, remark in rows:
        failed += answer is None
        row = dict.fromkeys(COLUMNS) | {"file": file, "remark": remark}
        table.writerow(row | {name: getattr(answer, name) for name in COLUMNS[1:5] if answer})
        sys.stdout.flush()
    return failed


def write_json(rows) -> int:
    failed, before = 0, "["
    for file, answer, remark in rows:
        failed += answer is None
        row = {"file": str(file), **(vars(answer) if answer else {}), "remark": remark}
        print(before, json.dumps(row), sep="\n", end="")
        before = ","
        sys.stdout.flush()
    print("[]" if before == "[" else "\n]")
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrokenPipeError, KeyboardInterrupt):  # `| head`, or Ctrl-C: what was printed is enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        sys.exit(1)
