"""Files that are there whole or not at all, and whether one has changed."""

import os
import shutil
from contextlib import suppress
from pathlib import Path


def write_whole(contents: dict[Path, bytes]) -> None:
    """Write every file of `contents`, each in place of what was there, or of what it is a link to.

    Folders that are missing are made.

    All of them or none: raises the `OSError` of the one that failed, with the files as they were before. They are on
    the disk when it returns. Who reads one meanwhile finds the old one or the new one, never half of it.
    """
    contents = {path.resolve(): content for path, content in contents.items()}
    *others, _ = contents  # the last one to be replaced needs no way back
    kept, replaced = {}, []
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(_beside(path, "part"), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, _beside(path, "part"))
        for path in filter(Path.exists, others):
            kept[path] = shutil.copy2(path, _beside(path, "before"))
        for path in contents:
            _beside(path, "part").replace(path)
            replaced.append(path)
    except OSError:
        for path in replaced:
            kept[path].replace(path) if path in kept else path.unlink()
        raise
    finally:
        for path in contents:
            for name in ("part", "before"):
                with suppress(OSError):
                    _beside(path, name).unlink(missing_ok=True)


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f".{path.name}.{name}")


def stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced or written to; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
