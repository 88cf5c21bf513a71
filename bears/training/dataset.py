"""Which photos there are, what is wrong with them, and which of them are for training, validation and the test.

A data set is a pandas DataFrame with one row for each photo: `file` (a path), `label`, `given` (its label before any
decision of a person), `part` ("train", "valid" or "test" where its folder or table says so, or None), `sha256`, `group`
(the same for near-duplicates) and `split` ("train", "valid" or "test").
"""

import csv
import hashlib
import io
import os
import re
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from fastprogress.fastprogress import progress_bar
from PIL import Image
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse.csgraph import connected_components

from bears.files import write_whole
from bears.photos import PhotoError, check_size, open_photo, orientation
from bears.training import TrainingError
from bears.training.layouts import find
from bears.training.tables import read_table

MIN_PHOTOS = 10  # of each label; with fewer, the parts set aside say nothing
MIN_SIDE = 64  # pixels; below that a photo teaches little
NEAR = 10  # of 64 bits of the perceptual hash; from 12 on, photos that only resemble each other are chained together
HELD_OUT = {"test": 0.15, "valid": 0.15}  # shares of the photos
PARTS = [*HELD_OUT, "train"]  # the stricter first
DELETE = "<Delete>"  # as fastai's ImageClassifierCleaner says it
DECISION = "sha256 from to reason".split()
LOOKED_AT = "sha256 phash mirrored why left_out".split()


def check_photos(
    folder: str | os.PathLike,  # holds a folder of photos for each label
    cleaning: str | os.PathLike | None = None,  # a file of decisions as `decide` writes it
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The photos that can be used, and what was left out or is odd: `file`, `why`, `left_out` (no file is touched).

    Every photo is opened once. Left out are files that are no photos, tiny ones, second copies, and what `cleaning`
    says; near-duplicates stay, in one `group`. Raises `TrainingError` when too little is left to learn from.
    """
    found, around = find(Path(folder))
    for label in sorted(set(found.label)):
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in label):  # it would stop the export, at the end
            raise TrainingError(f"The label {ascii(label)} in {folder} is no text. Please rename it.")
    if found.empty:
        raise TrainingError(
            f"There are no photos in {folder}. Put them in one folder for each label: "
            f"{Path(folder, 'LABEL', 'PHOTO.jpg')}.{_because([around])}"
        )
    photos, odd = _look_at_all(found)
    photos, one = _one_label(photos)
    remarks = [around, odd, one]
    photos = photos.sort_values("part", key=_strictness, kind="stable")  # of copies, the first stays

    labels = photos.groupby("sha256").label.transform("nunique")
    contradicting = _why(photos[labels > 1], "the same file is there with another label")
    second = photos[labels == 1].duplicated("sha256").reindex(photos.index, fill_value=False)
    remarks += [contradicting, _why(photos[second], "a second copy of the same file")]
    photos = photos[(labels == 1) & ~second].reset_index(drop=True)
    photos["group"] = _groups(photos)

    photos, cleaned = apply_decisions(photos, cleaning)
    remarks += [cleaned]
    _check_counts(folder, photos.label.value_counts().to_dict(), remarks)
    remarks = pd.concat(remarks, ignore_index=True).astype({"left_out": bool})
    return photos.drop(columns=["phash", "mirrored"]).reset_index(drop=True), remarks


def check_strangers(folder: str | os.PathLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Photos that show none of the labels, with the names of their folders in `folder` as their `label`, and remarks.

    Every photo is opened once, as in `check_photos`; there may be none.
    """
    found, around = find(Path(folder))
    photos, odd = _look_at_all(found)
    return photos, pd.concat([around, odd], ignore_index=True)


def _one_label(photos: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels that differ in upper and lower case, or in how a letter is coded, are one: that with the most photos."""
    counted = photos.label.value_counts()
    first = {}  # the label with the most photos, of all that are one
    for label in sorted(counted.index, key=lambda label: (-counted[label], label)):
        first.setdefault(_plain(label), label)
    one = {label: first[_plain(label)] for label in counted.index}
    told = photos[photos.label != photos.label.map(one)].drop_duplicates("label")
    how = "which differs only in upper and lower case, or in how its letters are coded."
    why = [f"{label} counts as {unicodedata.normalize('NFC', one[label])}, {how}" for label in told.label]
    folders = pd.DataFrame({"file": [file.parent for file in told.file], "why": why}).assign(left_out=False)
    label = photos.label.map(lambda label: unicodedata.normalize("NFC", one[label]))
    return photos.assign(label=label), folders


def _plain(label: str) -> str:
    return unicodedata.normalize("NFC", label).casefold()


def _look_at_all(found: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files that are photos, and remarks on others."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        seen = progress_bar(pool.map(_look_at, found.file), total=len(found), leave=False)
        looked_at = pd.DataFrame(list(seen) if len(found) else [], columns=LOOKED_AT)
    looked_at = pd.concat([found, looked_at], axis=1)
    remarks = looked_at.loc[looked_at.why != "", ["file", "why", "left_out"]]
    return looked_at[~looked_at.left_out.astype(bool)].drop(columns=["why", "left_out"]), remarks


def _look_at(file: Path) -> dict:
    content = b""
    seen = dict(zip(LOOKED_AT, ("", 0, 0, "", True), strict=True))
    try:
        check_size(file.stat().st_size)  # before a video is read
        content = file.read_bytes()
        picture = open_photo(content, side=MIN_SIDE)
    except PhotoError as error:
        return seen | {"why": str(error)}
    except OSError as error:
        return seen | {"why": f"It cannot be read: {error.strerror}."}
    if min(picture.size) < MIN_SIDE:
        return seen | {"why": f"It is only {picture.width} × {picture.height} pixels."}
    turned = orientation(content)
    why = [f"It is turned upright (EXIF orientation {turned})."] if turned != 1 else []
    if incomplete := picture.info.get("incomplete"):
        why.append(f"This file is incomplete: {incomplete}.")
    return seen | {
        "sha256": hashlib.sha256(content).hexdigest(),
        "phash": _bits(picture),
        "mirrored": _bits(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "why": " ".join(why),
        "left_out": False,
    }


def _bits(picture: Image.Image) -> int:
    return int(str(imagehash.phash(picture)), 16)


def _why(photos: pd.DataFrame, why: str) -> pd.DataFrame:
    return pd.DataFrame({"file": photos.file, "why": why, "left_out": True})


def _groups(photos: pd.DataFrame) -> list[str]:
    """For each photo the smallest SHA-256 of those that look like it or its mirror image, directly or in a chain."""
    hashes = photos.phash.to_numpy(np.uint64)
    others = np.stack([hashes, photos.mirrored.to_numpy(np.uint64)])
    rows, columns = [], []
    for row, one in enumerate(hashes):  # a row at a time: 10,000 photos are 100 million pairs
        near = np.flatnonzero((np.bitwise_count(others ^ one) <= NEAR).any(axis=0))
        rows += [row] * len(near)
        columns += near.tolist()
    links = sparse.coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(hashes),) * 2)
    _, group = connected_components(links, directed=False)
    return photos.sha256.groupby(group).transform("min").tolist()


def _because(remarks: list[pd.DataFrame]) -> str:
    left_out = pd.concat(remarks)
    left_out = left_out[left_out.left_out.astype(bool)]
    listed = "".join(f"\n{file}: {why}" for file, why in zip(left_out.file[:20], left_out.why[:20], strict=True))
    return f" Left out were {len(left_out)} files, among them:{listed}" if listed else ""


def _check_counts(folder, counts: dict[str, int], remarks: list[pd.DataFrame]) -> None:
    because = _because(remarks)
    if len(counts) < 2:
        have = (
            f"All photos in {folder} have the label {next(iter(counts))!r}"
            if counts
            else f"No photo in {folder} can be used"
        )
        raise TrainingError(f"{have}. Put photos of at least two labels there, each in a folder.{because}")
    if few := {label: count for label, count in sorted(counts.items()) if count < MIN_PHOTOS}:
        named = ", ".join(f"{label}: {count}" for label, count in few.items())
        raise TrainingError(f"There are too few photos ({named}). Each label needs at least {MIN_PHOTOS}.{because}")


# Decisions of a person


def read_decisions(cleaning: str | os.PathLike) -> dict[str, dict]:
    """The last decision on each photo, by its SHA-256.

    However a spreadsheet has saved them: with semicolons or tabs, a byte order mark, in Latin-1, in another order.
    """
    try:
        rows = read_table(cleaning)
    except FileNotFoundError:
        return {}
    columns = [cell.lower() for cell in rows[0][1]] if rows else []
    if missing := [column for column in DECISION if column not in columns]:
        raise TrainingError(
            f"{cleaning} does not begin with the line {','.join(DECISION)}: {', '.join(missing)} is missing."
        )
    decisions = {}
    for number, row in rows[1:]:
        cells = dict(zip(columns, row, strict=False))
        decision = {column: cells.get(column, "") for column in DECISION}
        decision["sha256"] = decision["sha256"].lower()
        if not re.fullmatch("[0-9a-f]{64}", decision["sha256"]):
            raise TrainingError(
                f"{cleaning}, row {number}: {decision['sha256']!r} is no SHA-256, which has 64 digits and letters from "
                "a to f. Did a spreadsheet make a number of it?"
            )
        if not decision["to"]:
            raise TrainingError(f"{cleaning}, row {number}: it does not say what the photo is to be (column to).")
        decisions[decision["sha256"]] = decision
    return decisions


def decide(cleaning: str | os.PathLike, sha256: str, label: str, to: str | None, reason: str = "") -> None:
    """Write down that the photo in the folder `label` is in truth `to`, or is to be left out (`DELETE`).

    `None` takes a decision back. The file is replaced as a whole, sorted, so that two runs give the same bytes.
    """
    row = None if to is None else dict(zip(DECISION, (sha256, label, to, reason), strict=True))
    write_decisions(cleaning, {sha256: row})


def write_decisions(cleaning: str | os.PathLike, changes: dict[str, dict | None]) -> None:
    """Change the decisions on some photos, by their SHA-256, all at once; `None` takes one back."""
    decisions = {sha256: row for sha256, row in (read_decisions(cleaning) | changes).items() if row}
    table = io.StringIO()
    writer = csv.DictWriter(table, DECISION, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(decisions.values(), key=lambda row: (row["from"], row["reason"], row["sha256"])))
    write_whole({Path(cleaning): table.getvalue().encode()})


def apply_decisions(photos: pd.DataFrame, cleaning: str | os.PathLike | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`photos` after the decisions in `cleaning`, if there are any, and what they changed."""
    decisions = {} if cleaning is None else read_decisions(cleaning)
    meant = photos.sha256.map(lambda sha256: decisions.get(sha256, {}).get("to"))
    reason = photos.sha256.map(lambda sha256: decisions.get(sha256, {}).get("reason", ""))
    delete, decided = meant == DELETE, meant.notna()
    told = decided & (meant != photos.label)  # of what a person has confirmed there is nothing to tell
    changed = pd.DataFrame(
        {
            "file": photos.file[told],
            "why": ("cleaning: " + meant.where(~delete, "left out") + ", " + reason)[told],
            "left_out": delete[told],
        }
    )
    label = meant.where(decided & ~delete, photos.label).astype(photos.label.dtype)
    photos = photos.assign(given=photos.label, label=label)
    return photos[~delete].reset_index(drop=True), changed


# The split


def split(photos: pd.DataFrame, seed: int, kept: str | os.PathLike | None = None) -> pd.DataFrame:
    """`photos` with the column `split`: 70 % "train", 15 % "valid", 15 % "test", near-duplicates together.

    What the column `part` says holds, but of near-duplicates all are for the test if one is, and a part that it gives
    to none is drawn from the training photos. Where another new photo goes depends on its group and the seed alone,
    unless it looks like one whose part is written down in the file `kept`, or a label would have none in a part. The
    file only ever gains rows, so no photo that was once for the test is ever learnt from. Raises `TrainingError` where
    no split has photos of each label in each part.
    """
    known = {} if kept is None else _read_split(kept)
    part = photos.sha256.map(known) if known else pd.Series(pd.NA, photos.index, "object")
    said = photos.get("part", pd.Series(None, photos.index, "object"))
    fixed = part.where(part.notna(), said.where(said != "train"))
    home = _strictness(fixed).groupby(photos.group).min()
    position = photos.group.map(lambda group: int(hashlib.sha256(f"{seed} {group}".encode()).hexdigest(), 16) / 2**256)
    ends = np.cumsum([HELD_OUT["test"], HELD_OUT["valid"]])
    drawn = pd.Series(np.array(PARTS)[np.searchsorted(ends, position, side="right")], index=photos.index)
    drawn = drawn.where(~drawn.isin(set(said)), "train")
    free = photos.group.map(home).isna()
    meant = photos.group.map(home).map(dict(enumerate(PARTS))).where(~free, drawn)
    part = part.where(part.notna(), meant)
    part = _repaired(photos, part, free, position)
    if kept is not None and not photos.sha256.isin(known).all():
        new = ~photos.sha256.isin(known)
        _append_split(kept, photos.sha256[new], part[new], begun=bool(known))
    return photos.assign(split=part)


def _strictness(parts: pd.Series) -> pd.Series:
    """0 for the test, 1 for validation, 2 for training."""
    return parts.map(PARTS.index, na_action="ignore").astype(float)


def _repaired(photos: pd.DataFrame, part: pd.Series, free: pd.Series, position: pd.Series) -> pd.Series:
    """`part` with as few photos as possible of the groups that are `free` moved, so that no label lacks a part.

    An integer program: one part for each group, and for each label and part one group or more.
    """
    present = pd.crosstab(photos.label, part).reindex(columns=PARTS, fill_value=0)
    if present.to_numpy().all():
        return part
    fixed = pd.crosstab(photos.label[~free], part[~free]).reindex(index=present.index, columns=PARTS, fill_value=0)
    groups = photos[free].groupby("group")
    has = pd.crosstab(photos.group[free], photos.label[free]).reindex(columns=present.index, fill_value=0) > 0
    size, where = groups.size().to_numpy(), part[free].groupby(photos.group[free]).first()
    moved = np.array([[name != there for name in PARTS] for there in where])
    tie = position[free].groupby(photos.group[free]).first().to_numpy()
    cost = moved * (size + 1e-3 * tie)[:, None]  # of several ways with as few photos, always the same
    count = len(where)
    one_part = sparse.kron(sparse.eye_array(count), np.ones((1, 3)), format="csr")
    covered = sparse.kron(has.to_numpy().T.astype(float), sparse.eye_array(3), format="csr")
    needed = (fixed.to_numpy() == 0).astype(float).ravel()
    found = (
        milp(
            cost.ravel(),
            integrality=np.ones(3 * count),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_part, 1, 1), LinearConstraint(covered, needed, np.inf)],
        )
        if count
        else None
    )
    if found is None or found.x is None:
        raise _no_split(photos, present)
    chosen = pd.Series(np.array(PARTS)[found.x.reshape(count, 3).argmax(1)], index=where.index)
    return part.where(~free, photos.group.map(chosen))


def _no_split(photos: pd.DataFrame, present: pd.DataFrame) -> TrainingError:
    """Says which labels cannot be split, and with which others they hang together."""
    labels = [*present.index]
    has = pd.crosstab(photos.group, photos.label)[labels].to_numpy() > 0
    _, component = connected_components(sparse.csr_array(has.T.astype(int) @ has.astype(int)), directed=False)
    lacking = set(component[(present.to_numpy() == 0).any(axis=1)])
    together = [", ".join(np.array(labels)[component == number]) for number in sorted(lacking)]
    alone = [names for names in together if ", " not in names]
    if alone:
        return TrainingError(
            f"The photos of {alone[0]} are all alike, or their parts are written down, so none can be set aside. "
            "Add others."
        )
    return TrainingError(
        f"No split has photos of each label in training, validation and test: near-duplicates hang together, of "
        f"{'; of '.join(together)}. Add others, or remove some that are alike."
    )


SPLIT = "sha256 split".split()


def _read_split(kept: str | os.PathLike) -> dict[str, str]:
    """The part of each photo by its SHA-256; of several rows the first counts."""
    try:
        with open(kept, newline="", encoding="utf-8-sig") as file:
            columns, rows = next(csv.reader(file), []), [(row + [""])[:2] for row in csv.reader(file) if row]
    except FileNotFoundError:
        return {}
    if columns != SPLIT or not all(part in PARTS for _, part in rows):
        raise TrainingError(
            f"{kept} is damaged: its columns are {','.join(SPLIT)}, and a part is one of {', '.join(PARTS)}. Restore "
            "it, or delete it to split anew; then nothing that was measured before can be compared."
        )
    return dict(reversed(rows))


def _append_split(kept: str | os.PathLike, sha256: pd.Series, part: pd.Series, begun: bool) -> None:
    rows = sorted(zip(sha256, part, strict=True))
    text = "".join(f"{','.join(row)}\n" for row in [*([] if begun else [SPLIT]), *rows])
    try:
        before = Path(kept).read_bytes().rstrip() + b"\n" if begun else b""
        write_whole({Path(kept): before + text.encode()})
    except OSError as error:
        warnings.warn(
            f"{kept} cannot be written ({error.strerror}), so nothing keeps this split: photos that are added or left "
            "out later may move others.",
            stacklevel=3,
        )


def elsewhere(photos: pd.DataFrame) -> int:
    """How many photos are in another part than their folder or table says."""
    return int((photos.part.notna() & (photos.part != photos.split)).sum())


def counts(photos: pd.DataFrame) -> pd.DataFrame:
    """How many photos of each label there are in each part, and in all."""
    table = pd.crosstab(photos.label, photos.split).reindex(columns=reversed(PARTS), fill_value=0)
    table = pd.concat([table, table.sum().to_frame("all").T])  # not crosstab's margins: a label may be called "all"
    return table.assign(all=table.sum(axis=1))
