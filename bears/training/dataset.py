"""Which photos there are, what is wrong with them, and which of them are for training, validation and the test.

A data set is a pandas DataFrame with one row for each photo: `file` (a path), `label`, `sha256`, `group` (the same for
near-duplicates) and `split` ("train", "valid" or "test").
"""

import csv
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bears.files import write_whole
from bears.photos import PhotoError, open_photo, orientation
from bears.training import TrainingError

MIN_PHOTOS = 10  # of each label; with fewer, the parts set aside say nothing
MIN_SIDE = 64  # pixels; below that a photo teaches little
NEAR = 10  # of 64 bits of the perceptual hash; from 12 on, photos that only resemble each other are chained together
HELD_OUT = {"test": 0.15, "valid": 0.15}  # shares of the photos
DELETE = "<Delete>"  # as fastai's ImageClassifierCleaner says it
DECISION = "sha256 from to reason".split()
LOOKED_AT = "file label sha256 phash mirrored why left_out".split()


def photo_files(folder: str | os.PathLike) -> list[Path]:
    """Every file in the label folders of `folder`, whatever its name (hidden ones left out), in a fixed order."""
    return sorted(file for file in Path(folder).glob("[!.]*/[!.]*") if file.is_file())


def check_photos(
    folder: str | os.PathLike,  # holds a folder of photos for each label
    cleaning: str | os.PathLike | None = None,  # a file of decisions as `decide` writes it
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The photos that can be used, and what was left out or is odd: `file`, `why`, `left_out` (no file is touched).

    Every photo is opened once. Left out are files that are no photos, tiny ones, second copies, and what `cleaning`
    says; near-duplicates stay, in one `group`. Raises `TrainingError` when too little is left to learn from.
    """
    files = photo_files(folder)
    if not files:
        raise TrainingError(
            f"There are no photos in {folder}. Put them in one folder for each label: "
            f"{Path(folder, 'LABEL', 'PHOTO.jpg')}."
        )
    photos, odd = _look_at_all(files)
    remarks = [odd, _folders_inside(folder)]

    labels = photos.groupby("sha256").label.transform("nunique")
    contradicting = _why(photos[labels > 1], "the same file is there with another label")
    second = photos[labels == 1].duplicated("sha256").reindex(photos.index, fill_value=False)
    remarks += [contradicting, _why(photos[second], "a second copy of the same file")]
    photos = photos[(labels == 1) & ~second].reset_index(drop=True)
    photos["group"] = _groups(photos)

    if cleaning is not None and Path(cleaning).exists():
        photos, cleaned = apply_decisions(photos, cleaning)
        remarks += [cleaned]
    _check_counts(folder, photos.label.value_counts().to_dict(), remarks)
    remarks = pd.concat(remarks, ignore_index=True).astype({"left_out": bool})
    return photos.drop(columns=["phash", "mirrored"]).reset_index(drop=True), remarks


def check_strangers(folder: str | os.PathLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Photos that show none of the labels, with the names of their folders in `folder` as their `label`, and remarks.

    Every photo is opened once, as in `check_photos`; there may be none.
    """
    return _look_at_all(photo_files(folder))


def _look_at_all(files: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files that are photos, and remarks on others."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        looked_at = pd.DataFrame(pool.map(_look_at, files), columns=LOOKED_AT)
    remarks = looked_at.loc[looked_at.why != "", ["file", "why", "left_out"]]
    return looked_at[~looked_at.left_out.astype(bool)].drop(columns=["why", "left_out"]), remarks


def _look_at(file: Path) -> dict:
    content = b""
    seen = dict(zip(LOOKED_AT, (file, file.parent.name, "", 0, 0, "", True), strict=True))
    try:
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


def _folders_inside(folder) -> pd.DataFrame:
    inside = [path for path in sorted(Path(folder).glob("[!.]*/[!.]*")) if path.is_dir()]
    return pd.DataFrame(
        {"file": inside, "why": "A folder inside a label's folder; its files are not read.", "left_out": True}
    )


def _groups(photos: pd.DataFrame) -> list[str]:
    """For each photo the smallest SHA-256 of those that look like it or its mirror image, directly or in a chain."""
    hashes = photos.phash.to_numpy(np.uint64)
    others = np.stack([hashes, photos.mirrored.to_numpy(np.uint64)])
    rows, columns = [], []
    for row, one in enumerate(hashes):  # a row at a time: 10,000 photos are 100 million pairs
        near = np.flatnonzero((np.bitwise_count(others ^ one) <= NEAR).any(axis=0))
        rows += [row] * len(near)
        columns += near.tolist()
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(hashes),) * 2)
    _, group = connected_components(links, directed=False)
    return photos.sha256.groupby(group).transform("min").tolist()


def _check_counts(folder, counts: dict[str, int], remarks: list[pd.DataFrame]) -> None:
    left_out = pd.concat(remarks)
    left_out = left_out[left_out.left_out.astype(bool)]
    listed = "".join(f"\n{file}: {why}" for file, why in zip(left_out.file[:20], left_out.why[:20], strict=True))
    because = f" Left out were {len(left_out)} files, among them:{listed}" if listed else ""
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
    """The last decision on each photo, by its SHA-256."""
    try:
        with open(cleaning, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != DECISION:
                raise TrainingError(f"{cleaning} does not begin with the line {','.join(DECISION)}.")
            return {row["sha256"]: row for row in reader}
    except FileNotFoundError:
        return {}


def decide(cleaning: str | os.PathLike, sha256: str, label: str, to: str | None, reason: str = "") -> None:
    """Write down that the photo in the folder `label` is in truth `to`, or is to be left out (`DELETE`).

    `None` takes a decision back. The file is replaced as a whole, sorted, so that two runs give the same bytes.
    """
    decisions = read_decisions(cleaning)
    decisions.pop(sha256, None)
    if to is not None:
        decisions[sha256] = dict(zip(DECISION, (sha256, label, to, reason), strict=True))
    table = io.StringIO()
    writer = csv.DictWriter(table, DECISION, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(decisions.values(), key=lambda row: (row["from"], row["reason"], row["sha256"])))
    write_whole({Path(cleaning): table.getvalue().encode()})


def apply_decisions(photos: pd.DataFrame, cleaning: str | os.PathLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`photos` after the decisions in `cleaning`, and what they changed."""
    decisions = read_decisions(cleaning)
    meant = photos.sha256.map(lambda sha256: decisions.get(sha256, {}).get("to"))
    reason = photos.sha256.map(lambda sha256: decisions.get(sha256, {}).get("reason", ""))
    delete, decided = meant == DELETE, meant.notna()
    changed = pd.DataFrame(
        {
            "file": photos.file[decided],
            "why": ("cleaning: " + meant.where(~delete, "left out") + ", " + reason)[decided],
            "left_out": delete[decided],
        }
    )
    photos = photos.assign(label=meant.where(decided & ~delete, photos.label).astype(photos.label.dtype))
    return photos[~delete].reset_index(drop=True), changed


# The split


def split(photos: pd.DataFrame, seed: int) -> pd.DataFrame:
    """`photos` with the column `split`: 70 % "train", 15 % "valid", 15 % "test", near-duplicates together.

    Where a photo goes depends on its group and the seed alone: photos that are added or removed later move no other
    one from the test to training. Only if a label would have none in a part, its nearest group is moved there.
    """
    position = photos.group.map(lambda group: int(hashlib.sha256(f"{seed} {group}".encode()).hexdigest(), 16) / 2**256)
    part = pd.Series("train", index=photos.index)
    start = 0.0
    for name, share in HELD_OUT.items():
        part[(position >= start) & (position < start + share)] = name
        start += share
    labels, names = sorted(photos.label.unique()), (*HELD_OUT, "train")
    for label in labels:
        if photos.group[photos.label == label].nunique() < len(names):
            raise TrainingError(f"The photos of {label} are all alike, so none can be set aside. Add others.")

    def lacking(part: pd.Series) -> list[tuple[str, str]]:
        return [
            (label, name) for label in labels for name in names if not ((photos.label == label) & (part == name)).any()
        ]

    while lacks := lacking(part):
        label, name = lacks[0]
        own = photos.label == label
        most = part[own].value_counts().index[0]
        # its nearest group, or the next one: what hangs together with photos of another label may be missed there
        order = pd.DataFrame({"elsewhere": part != most, "position": position})[own & (part != name)]
        for group in photos.group[order.sort_values(["elsewhere", "position"]).index].unique():
            moved = part.mask(photos.group == group, name)
            if len(lacking(moved)) < len(lacks):
                part = moved
                break
        else:
            together = sorted(photos.label[photos.group.isin(photos.group[own])].unique())
            raise TrainingError(
                f"No split was found with photos of {label} in training, validation and test: near-duplicates hang "
                f"together, of {', '.join(together)}. Add others, or remove some that are alike."
            )
    return photos.assign(split=part)


def counts(photos: pd.DataFrame) -> pd.DataFrame:
    """How many photos of each label there are in each part, and in all."""
    parts = ["train", *reversed(HELD_OUT)]
    return pd.crosstab(photos.label, photos.split, margins=True, margins_name="all")[[*parts, "all"]]
