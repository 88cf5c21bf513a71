"""bears.files: what is written is there whole, or what was there before is."""

import errno
from pathlib import Path

import pytest

from bears.files import write_whole


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "one").write_bytes(b"old one")
    (tmp_path / "two").write_bytes(b"old two")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_files_are_replaced_and_their_folders_made(folder):
    write_whole({folder / "one": b"new one", folder / "two": b"new two"})
    assert content(folder) == {"one": b"new one", "two": b"new two"}
    write_whole({folder / "deep" / "down" / "three": b"3"})
    assert (folder / "deep" / "down" / "three").read_bytes() == b"3"


@pytest.mark.parametrize("names", [("one", "two"), ("new", "two"), ("two",)])
def test_when_the_last_cannot_be_replaced_all_are_as_before(folder, monkeypatch, names):
    before = content(folder)
    replace = Path.replace

    def refuse(source, target):  # as Windows does while somebody has the file open
        if target.name == "two" and source.name.endswith(".part"):
            raise PermissionError(errno.EACCES, "Access is denied")
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        write_whole({folder / name: b"new" for name in names})
    assert content(folder) == before


def test_a_link_stays_one_and_rights_stay_as_they_are(folder):
    (folder / "link").symlink_to(folder / "one")
    (folder / "one").chmod(0o664)
    write_whole({folder / "link": b"new one"})
    assert (folder / "link").is_symlink() and (folder / "one").read_bytes() == b"new one"
    assert (folder / "one").stat().st_mode & 0o777 == 0o664


def test_on_a_full_disk_nothing_changes(folder, monkeypatch):
    before = content(folder)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole({folder / "one": b"new one", folder / "two": b"new two"})
    assert content(folder) == before


def test_who_reads_meanwhile_never_finds_half_a_file(folder, monkeypatch):
    seen = []
    monkeypatch.setattr("os.fsync", lambda descriptor: seen.append((folder / "one").read_bytes()))
    write_whole({folder / "one": b"new one" * 1000})
    assert seen == [b"old one"]
