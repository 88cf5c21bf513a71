"""Where photos lie, and what that says of each: its label, and perhaps whether it is for training or for the test.

photos/LABEL/PHOTO.jpg
photos/train/LABEL/PHOTO.jpg, photos/valid/LABEL/PHOTO.jpg, and perhaps photos/test/LABEL/PHOTO.jpg
photos/labels.csv, a table with the name of a file and its label in each row, and the files, in folders or not
"""

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from bears.photos import MAX_BYTES
from bears.training import TrainingError
from bears.training.tables import read_table

OURS = ("manifest.csv", "split.csv", "cleaning.csv")
SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx")  # what they put beside photos, with hidden files
PART_NAMES = {
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("train", "training"), "train"),
}
TABLES = (".csv", ".tsv")
LABEL = "label labels class class_name category species breed target".split()  # how the column may be called
PART = "split part set subset is_valid".split()
FEW = 20  # rows of a table
DEPTH = 6  # folders inside each other, beyond which nobody looks


def find(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files that have a label (`file`, `label`, `part`), and remarks on what else there is (`file`, `why`).

    `part` is "train", "valid", "test", or None where nothing says it. What systems put beside photos gets no remark.
    """
    odd = []
    top = _inside(folder, odd)
    table = _table(folder, [path for path in top if path.suffix.lower() in TABLES and path.name not in OURS], odd)
    if table is None:
        told = [file for file, _ in odd]
        found = _in_folders([path for path in top if path not in told], odd)
    else:
        top = [path for path in top if path.name not in (*OURS, table[0].name)]
        found = _in_table(folder, top, *table, odd)
    remarks = pd.DataFrame(odd, columns=["file", "why"]).assign(left_out=True)
    return pd.DataFrame(found, columns=["file", "label", "part"], dtype=object), remarks


def photo_files(folder: str | os.PathLike) -> list[Path]:
    """Every file in `folder` that has a label, in a fixed order."""
    return find(Path(folder))[0].file.tolist()


def _inside(folder: Path, odd: list) -> list[Path]:
    try:
        return sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in SYSTEMS
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        odd.append((folder, f"This folder cannot be read: {error.strerror}."))
        return []


def _is_readable(path: Path, odd: list) -> bool:
    if path.is_file():
        return True
    odd.append((path, "It is no file." if path.exists() else "It is a link to a file that is not there."))
    return False


# Folders


def _in_folders(top: list[Path], odd: list) -> list[tuple]:
    """Of folders of labels; those that are called as parts and hold folders are parts, which hold folders of labels."""
    parts = [path for path in top if path.name.lower() in PART_NAMES and path.is_dir()]
    if not any(any(inside.is_dir() for inside in _inside(part, [])) for part in parts):
        parts = []  # somebody may tell trains from trams
    found = []
    for path in top:
        if path in parts:
            for inside in _inside(path, odd):
                found += _of_label(inside, PART_NAMES[path.name.lower()], odd)
        else:
            found += _of_label(path, None, odd)
    return found


def _of_label(path: Path, part: str | None, odd: list) -> list[tuple]:
    if not path.is_dir():
        odd += [] if path.name in OURS else [(path, "It is in no label's folder.")]
        return []
    found, before = [], len(odd)
    inside = _inside(path, odd)
    for file in inside:
        if file.is_dir():
            odd.append((file, "A folder inside a label's folder; its files are not read."))
        elif _is_readable(file, odd):
            found.append((file, path.name, part))
    if not inside and len(odd) == before:
        odd.append((path, "An empty folder: there is no photo of that label."))
    return found


# A table


class _Names:
    """Finds files by what a table calls them: a path, or a name, with or without its ending, that only one of them has.

    They are looked up among the files that are there: nothing that a table says is ever opened.
    """

    def __init__(self, folder: Path, files: list[Path]):
        paths = {_plain(file.relative_to(folder).as_posix()): file for file in files}
        self._paths = _unique((name.casefold(), file) for name, file in paths.items()) | paths
        self._bare = _unique((_plain(name).casefold(), file) for file in files for name in {file.name, file.stem})
        self._endings = {file.suffix.lower() for file in files} - {""}

    def __call__(self, cell: str) -> Path | None:
        name = _plain(cell.replace("\\", "/").removeprefix("./"))
        if "/" not in name and name not in self._paths:
            return self._bare.get(name.casefold())
        while "/" in name and name not in self._paths and name.casefold() not in self._paths:
            name = name.split("/", 1)[1]  # it begins with this folder, or is another computer's
        return self._paths.get(name) or self._paths.get(name.casefold())

    def is_heading(self, cell: str) -> bool:
        return self(cell) is None and Path(cell).suffix.lower() not in self._endings


def _unique(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Without names that several have."""
    named = [*named]
    count = Counter(name for name, _ in named)
    return {name: file for name, file in named if count[name] == 1}


def _table(folder: Path, files: list[Path], odd: list) -> tuple[Path, list, dict[str, int]] | None:
    """The one table that names photos and their labels, its rows, and which columns are "file", "label" and "part"."""
    tables = []
    names = _Names(folder, _beneath(folder, [])) if files else None
    for file in files:
        try:
            rows = read_table(file) if file.stat().st_size <= MAX_BYTES else []
        except (OSError, TrainingError) as error:
            odd.append((file, str(error)))
            continue
        columns = _columns(rows, names)
        if "label" in columns:
            tables.append((file, rows, columns))
        elif "file" in columns:
            odd.append((file, f"It names photos. Which column has their labels? Call it {LABEL[0]}."))
    tables = [table for table in tables if table[0].stem.lower() == "labels"] or tables
    if len(tables) > 1:
        listed = " and ".join(file.name for file, *_ in tables)
        raise TrainingError(f"{listed} in {folder} name photos and their labels. Leave only one of them there.")
    return tables[0] if tables else None


def _columns(rows: list[tuple[int, list[str]]], names: _Names) -> dict[str, int]:
    """The column most of whose cells name files; that of their labels, by its name or as the only other one."""
    width = max((len(cells) for _, cells in rows), default=0)
    named = [sum(names(_cell(cells, column)) is not None for _, cells in rows) for column in range(width)]
    if not rows or max(named) < max(1, (len(rows) - 1) / 2):
        return {}
    columns = {"file": named.index(max(named))}
    first = rows[0][1]
    heads = [_cell(first, column).lower() for column in range(width)]
    if not names.is_heading(_cell(first, columns["file"])):
        heads = [str(column) for column in range(width)]
    others = [column for column, head in enumerate(heads) if head and column != columns["file"]]
    for what, called in (("label", LABEL), ("part", PART)):
        if fitting := [column for column in others if heads[column] in called]:
            columns[what] = min(fitting, key=lambda column: called.index(heads[column]))
            others.remove(columns[what])
    if "label" not in columns and len(others) == 1 and _repeats([_cell(cells, others[0]) for _, cells in rows]):
        columns["label"] = others[0]
    return columns


def _repeats(cells: list[str]) -> bool:
    """As labels do, and captions and sizes do not; of a few nobody can tell."""
    return len(cells) < FEW or len(set(cells)) <= len(cells) / 2


def _in_table(folder: Path, top: list[Path], table: Path, rows: list, columns: dict, odd: list) -> list[tuple]:
    there = [file for path in top for file in (_beneath(path, odd) if path.is_dir() else [path])]
    names = _Names(folder, there)
    heads = rows[0][1]
    labels, parts = {}, {}
    for number, cells in rows[names.is_heading(_cell(heads, columns["file"])) :]:
        name, label, row = _cell(cells, columns["file"]), _cell(cells, columns["label"]), f"{table.name}, row {number}"
        file = names(name)
        if file is None:
            odd.append((folder / (name or "?"), f"{row}, names it, but no file is called so, or several are."))
        elif not label:
            odd.append((file, f"{row}, says no label."))
            labels.setdefault(file, set())
        else:
            labels.setdefault(file, set()).add(label)
            parts[file] = _part(heads, cells, columns, row)
    found = []
    together = sorted(there, key=lambda file: file.parent)
    for around, files in itertools.groupby(together, key=lambda file: file.parent):
        files = [*files]
        if around != folder and labels.keys().isdisjoint(files):
            odd.append((around, f"{table.name} names none of its files."))
            continue
        for file in files:
            if file not in labels:
                odd.append((file, f"{table.name} does not name it."))
            elif len(labels[file]) > 1:
                odd.append((file, f"{table.name} gives it several labels: {', '.join(sorted(labels[file]))}."))
            elif labels[file] and _is_readable(file, odd):
                found.append((file, *labels[file], parts[file]))
    return found


def _part(heads: list[str], cells: list[str], columns: dict[str, int], row: str) -> str | None:
    if "part" not in columns or not (cell := _cell(cells, columns["part"]).lower()):
        return None
    if heads[columns["part"]].lower() == "is_valid":
        return "valid" if cell in ("true", "1", "1.0", "yes") else "train"
    if cell not in PART_NAMES:
        raise TrainingError(f"{row}: {cell!r} is no part. There are train, valid and test.")
    return PART_NAMES[cell]


def _beneath(folder: Path, odd: list, depth: int = DEPTH) -> list[Path]:
    """All files in a folder and in those inside it."""
    files = []
    for path in _inside(folder, odd):
        if not path.is_dir():
            files.append(path)
        elif depth:
            files += _beneath(path, odd, depth - 1)
        else:
            odd.append((path, "There are too many folders around it; its files are not read."))
    return files


def _cell(cells: list[str], column: int) -> str:
    return cells[column] if column < len(cells) else ""


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)
