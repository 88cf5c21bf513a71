"""Tables as spreadsheets save them: with commas, semicolons or tabs, a byte order mark, in UTF-8, UTF-16 or Latin-1."""

import codecs
import csv
import io
import os
from pathlib import Path

from bears.training import TrainingError


def read_table(file: str | os.PathLike) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, with their numbers, from 1, and cells without the space around them.

    Raises `OSError` and `TrainingError`.
    """
    text = _text(Path(file).read_bytes())
    first = text.split("\n", 1)[0].strip()
    says = first.lower().startswith("sep=") and len(first) == 5  # which Excel writes and understands
    delimiter = first[-1] if says else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise TrainingError(f"{file} is no table ({error}). Save it as CSV.") from error
    return [(number, row) for number, row in enumerate(rows, 1) if any(row) and not (says and number == 1)]


def _text(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if content[1:2] == b"\0":
        return content.decode("utf-16-le", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # Excel's, in Western Europe and America
