"""python -m bears photo.jpg folder/: what is on each photo, for those who have more than a page takes.

Each line is printed as soon as it is known. Files in folders, and in those inside, are taken whatever their names;
hidden ones are left out. The exit status is 1 if some file or folder could not be read or it was interrupted, and 2
without a classifier or for arguments that make no sense.
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

COLUMNS = "file label probability novelty recognised plausible part remark".split()


def main(arguments: list[str] | None = None) -> int:
    novelty = "Novelty is how far a photo lies from all that was taught; above 1 it is not recognised."
    parser = argparse.ArgumentParser("python -m bears", description="Name what is on photos.", epilog=novelty)
    parser.add_argument("photos", nargs="+", metavar="photo", type=Path, help="a file, or a folder with files in it")
    parser.add_argument("--export", default="export.pkl", help="the classifier; its MODEL_CARD.md lies beside it")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--csv", action="store_true", help="as a table for programs")
    how.add_argument("--json", action="store_true", help="as a list for programs, with the probability of every label")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files are not always text
    if options.csv or options.json:  # the same everywhere
        sys.stdout.reconfigure(encoding="utf-8", newline="")
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
    seen = set()  # folders: a link may lead back to one
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for folder, inner, files in os.walk(path, onerror=unreadable.append, followlinks=True):
            if (real := os.path.realpath(folder)) in seen:
                inner.clear()
                continue
            seen.add(real)
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
            others = " or ".join((answer.plausible or ())[1:])
            perhaps = f"  perhaps {others}" if others else ""
            said = f"{answer.label}  {answer.probability:.4f}{perhaps}{novelty}  {remark}"
        tqdm.write(_printable(f"{file}: {said}".rstrip()), file=sys.stdout)
        sys.stdout.flush()
    return failed


def _printable(text: str) -> str:
    """With what could move a terminal's cursor, or is no text, escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _inert(text: str) -> str:
    """So that a spreadsheet does not take the name of a file for a formula."""
    return f"./{text}" if text[:1] in tuple("=+-@") else text


def write_csv(rows) -> int:
    failed = 0
    table = csv.DictWriter(sys.stdout, COLUMNS)
    table.writeheader()
    for file, answer, remark in rows:
        failed += answer is None
        row = dict.fromkeys(COLUMNS) | {"file": _inert(str(file)), "remark": _inert(remark)}
        if answer:
            row |= {name: getattr(answer, name) for name in COLUMNS[1:5]}
            row["plausible"] = answer.plausible and "; ".join(answer.plausible)
            row["part"] = answer.part and "; ".join(f"{share:.3f}" for share in answer.part)
        table.writerow(row)
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
