"""Where photos lie, and what that says of each: its label, and perhaps whether it is for training or for the test.

photos/LABEL/PHOTO.jpg
photos/train/LABEL/PHOTO.jpg, photos/valid/LABEL/PHOTO.jpg, and perhaps photos/test/LABEL/PHOTO.jpg
photos/labels.csv, a table with the name of a file and its label in each row, and the files, in folders or not
"""

import itertools
import os
import stat
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
FILE = "file filename file_name image img photo filepath path image_path image_id name id".split()
FOLDER = "relativepath relative_path folder directory dir".split()  # beside a column of names
LABEL = "label labels class class_name category species breed target".split()  # how the column may be called
PART = "split part set subset is_valid".split()
YES = "true t yes y 1 1.0 wahr ja vrai oui verdadero si".split()
NO = "false f no n 0 0.0 falsch nein faux non falso".split()
BESIDE = ".txt .xml .json .csv .tsv .md .mov .mp4".split()  # what lies beside photos, with the same names
FEW = 20  # rows of a table
FILE_, FOLDER_ = "file", "folder"  # kinds
DEPTH = 6  # folders inside each other, beyond which nobody looks


def find(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files that have a label (`file`, `label`, `part`), and remarks on what else there is (`file`, `why`).

    `part` is "train", "valid", "test", or None where nothing says it. What systems put beside photos gets no remark.
    """
    odd = []
    top = _inside(folder, odd)
    tables = [path for path in top if path.suffix.lower() in TABLES and path.name not in OURS and _kind(path) == FILE_]
    labelled = [path for path in top if path.name.lower() not in PART_NAMES and _has_files(path)]
    table = _table(folder, tables, len(labelled) > 1, odd)
    if table is None:
        told = [file for file, _ in odd]
        found = _in_folders([path for path in top if path not in told], odd)
    else:
        top = [path for path in top if path.name not in (*OURS, table[0].name)]
        found = _in_table(folder, top, *table, odd)
    remarks = pd.DataFrame(odd, columns=["file", "why"]).assign(left_out=True)
    if table is not None and len(labelled) > 1:
        remarks.loc[len(remarks)] = [table[0], "The labels are from this table, not from the names of folders.", False]
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


def _kind(path: Path) -> str:
    """`FILE_`, `FOLDER_`, or what it is instead, in a sentence."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "It is a link to a file that is not there."
    except OSError as error:
        return f"It cannot be read: {error.strerror}."
    return FOLDER_ if stat.S_ISDIR(mode) else FILE_ if stat.S_ISREG(mode) else "It is no file."


def _has_files(path: Path) -> bool:
    return _kind(path) == FOLDER_ and any(_kind(inside) == FILE_ for inside in _inside(path, []))


def _is_readable(path: Path, odd: list) -> bool:
    if (kind := _kind(path)) == FILE_:
        return True
    odd.append((path, kind))
    return False


# Folders


def _in_folders(top: list[Path], odd: list) -> list[tuple]:
    """Of folders of labels; those that are called as parts and hold folders are parts, which hold folders of labels."""
    parts = [path for path in top if path.name.lower() in PART_NAMES and _kind(path) == FOLDER_]
    if not any(any(_kind(inside) == FOLDER_ for inside in _inside(part, [])) for part in parts):
        if len([*filter(_has_files, parts)]) > 1:
            listed = " and ".join(part.name for part in parts)
            raise TrainingError(
                f"{listed} in {parts[0].parent} hold photos without labels. Put them into folders, "
                f"{Path(parts[0].name, 'LABEL', 'PHOTO.jpg')}, or say their labels in a table, labels.csv."
            )
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
    if _kind(path) != FOLDER_:
        odd += [] if path.name in OURS else [(path, "It is in no label's folder.")]
        return []
    found, before = [], len(odd)
    inside = _inside(path, odd)
    for file in inside:
        if _kind(file) == FOLDER_:
            odd.append((file, "A folder inside a label's folder; its files are not read."))
        elif _is_readable(file, odd):
            found.append((file, path.name.strip(), part))
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
        photos = [*filter(_may_be, files)]
        self._bare = _unique((_plain(name).casefold(), file) for file in photos for name in {file.name, file.stem})
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


def _may_be(file: Path) -> bool:
    return file.suffix.lower() not in BESIDE


def _table(folder: Path, files: list[Path], labelled: bool, odd: list) -> tuple[Path, list, dict[str, int]] | None:
    """The one table that names photos and their labels, its rows, and which columns are "file", "label" and "part"."""
    tables = []
    there = _beneath(folder, []) if files else []
    names = _Names(folder, there)
    for file in files:
        try:
            rows = read_table(file) if file.stat().st_size <= MAX_BYTES else []
        except (OSError, TrainingError) as error:
            odd.append((file, str(error)))
            continue
        named, columns = _columns(rows, names, sum(map(_may_be, there)))
        sure = file.stem.lower() == "labels"
        if "label" in columns and labelled and not sure and columns["label"][1] not in LABEL:
            del columns["label"]  # somebody's notes
        if "label" in columns:
            tables.append((file, rows, columns))
        elif "file" in columns:
            odd.append((file, f"It names photos. Which column has their labels? Call it {LABEL[0]}."))
        elif named or sure:
            why = f"{named} of its {len(rows)} rows name one of the photos here, so it is not used."
            if sure:
                raise TrainingError(f"{file}: {why} Are the names those of the files, and is each there once?")
            odd.append((file, why))
    tables = [table for table in tables if table[0].stem.lower() == "labels"] or tables
    if len(tables) > 1:
        listed = " and ".join(file.name for file, *_ in tables)
        raise TrainingError(f"{listed} in {folder} name photos and their labels. Leave only one of them there.")
    return tables[0] if tables else None


def _columns(rows: list[tuple[int, list[str]]], names: _Names, photos: int) -> tuple[int, dict[str, tuple[int, str]]]:
    """How many photos are named, and the columns, with their headings: of the file, its folder, its label, its part.

    The file's is the one that names most photos, and half of those there or of its cells do; of several, that with
    endings, or called as one would. The label's has a name for it, or is the only other one.
    """
    width = max((len(cells) for _, cells in rows), default=0)
    if not width:
        return 0, {}
    first = rows[0][1]
    heads = [_cell(first, column).lower() for column in range(width)]
    folder = next((column for column, head in enumerate(heads) if head in FOLDER), None)

    def worth(column: int) -> tuple:
        cells = {_name(cells, column, folder) for _, cells in rows}
        found = {names(cell) for cell in cells} - {None}
        endings = sum(bool(Path(cell).suffix) for cell in cells)
        called = -FILE.index(heads[column]) if heads[column] in FILE else -len(FILE)
        return len(found), endings, called, len(cells)

    candidates = [column for column in range(width) if heads[column] not in (*LABEL, *PART) and column != folder]
    if not candidates:
        return 0, {}
    file = max(candidates, key=worth)
    named, _, _, cells = worth(file)
    if named < max(1, min((cells - 1) / 2, photos / 2)):
        return named, {}
    if not names.is_heading(_name(first, file, folder)):
        heads = [str(column) for column in range(width)]
    columns = {"file": (file, heads[file])} | ({} if folder is None else {"folder": (folder, heads[folder])})
    others = [column for column, head in enumerate(heads) if head and column not in (file, folder)]
    for what, called in (("label", LABEL), ("part", PART)):
        if fitting := [column for column in others if heads[column] in called]:
            best = min(fitting, key=lambda column: called.index(heads[column]))
            columns[what] = (best, heads[best])
            others.remove(best)
    if "label" not in columns and len(others) == 1 and _repeats([_cell(cells, others[0]) for _, cells in rows]):
        columns["label"] = (others[0], heads[others[0]])
    return named, columns


def _name(cells: list[str], file: int, folder: int | None) -> str:
    name = _cell(cells, file)
    return name if folder is None or not _cell(cells, folder) else f"{_cell(cells, folder)}/{name}"


def _repeats(cells: list[str]) -> bool:
    """As labels do, and captions and sizes do not; of a few nobody can tell."""
    return len(cells) < FEW or len(set(cells)) <= len(cells) / 2


def _in_table(folder: Path, top: list[Path], table: Path, rows: list, columns: dict, odd: list) -> list[tuple]:
    there = [file for file in _beneath(folder, odd) if file.parent != folder or file in top]
    names = _Names(folder, there)
    at = {what: column for what, (column, _) in columns.items()}
    labels, parts = {}, {}
    for number, cells in rows[names.is_heading(_name(rows[0][1], at["file"], at.get("folder"))) :]:
        name, row = _name(cells, at["file"], at.get("folder")), f"{table.name}, row {number}"
        file = names(name)
        if file is None:
            odd.append((folder / (name or "?"), f"{row}, names it, but no file is called so, or several are."))
            continue
        labels.setdefault(file, set()).update({_cell(cells, at["label"])} - {""})
        if "part" in at:
            parts.setdefault(file, set()).add(_part(_cell(cells, at["part"]), columns["part"][1], row))
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
            elif not labels[file]:
                odd.append((file, f"{table.name} says no label."))
            elif len(labels[file]) > 1:
                odd.append((file, f"{table.name} gives it several labels: {', '.join(sorted(labels[file]))}."))
            elif _is_readable(file, odd):
                said = [part for part in PART_NAMES.values() if part in parts.get(file, ())]  # the strictest first
                where = file.relative_to(folder).parts[0].lower() if file.parent != folder else ""
                found.append((file, *labels[file], said[0] if said else PART_NAMES.get(where)))
    return found


def _part(cell: str, head: str, row: str) -> str | None:
    cell = cell.lower()
    if head == "is_valid" and cell in (*YES, *NO):
        return "valid" if cell in YES else "train"
    if cell and cell not in PART_NAMES:
        raise TrainingError(f"{row}: {cell!r} is no part. There are train, valid and test.")
    return PART_NAMES[cell] if cell else None


def _beneath(folder: Path, odd: list, depth: int = DEPTH, around: tuple[Path, ...] = ()) -> list[Path]:
    """All files in a folder and in those inside it."""
    files, around = [], (*around, folder.resolve())
    for path in _inside(folder, odd):
        if _kind(path) != FOLDER_:
            files.append(path)
        elif path.resolve() in around:
            odd.append((path, "It leads back to a folder around it."))
        elif depth:
            files += _beneath(path, odd, depth - 1, around)
        else:
            odd.append((path, "There are too many folders around it; its files are not read."))
    return files


def _cell(cells: list[str], column: int) -> str:
    return cells[column] if column < len(cells) else ""


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)
