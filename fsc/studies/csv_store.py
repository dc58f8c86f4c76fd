"""A table in a CSV file that grows row by row; neither a kill nor a second process damages it."""

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock

from fsc.runtime import warn, written_whole

TITLE = "# fsc study, format 1"
LOCK_SECONDS = 60
"""The time to wait for another process that holds the file; it needs milliseconds."""

Key = tuple[str, ...]


class Content(NamedTuple):
    """The content of the file."""

    lines: list[tuple[str, dict[str, str] | None]]  # each complete line behind the header, and its row if any
    end: int                                        # bytes up to the end of the last complete line
    torn: bytes                                     # the incomplete bytes behind that


class Store:
    """Rows in a CSV file, each with its own key; `pandas.read_csv(path, comment="#")` reads it.

    Its first line is TITLE, its second one names the columns. `add` writes a row in one go at the end, under
    a lock (the file PATH.lock), and returns when the row is on the disk. A process that is killed while it
    writes leaves an incomplete last line. Reading ignores it, because another process may be just writing it.
    Before the next row is written, it is cut off, with a warning.

    Args:
        path: need not exist; its folder must.
        columns: of every row.
        key: the columns that tell one row from another.
        about: a sentence that a new file gets as a comment on its third line.

    Raises:
        FileNotFoundError: the folder does not exist; or `path` is a folder.
        ValueError: the file was written by another version, has other columns, is not a store, or is damaged
            before its last line. It is left as it is.

    >>> store = Store("blocks.csv", columns=["arch", "blocks", "accuracy"], key=["arch", "blocks"])
    >>> store.add({"arch": "resnet20", "blocks": 2, "accuracy": 0.9})
    True
    """

    def __init__(self, path: str | os.PathLike, columns: Iterable[str], key: Iterable[str], about: str = ""):
        self.path, self.columns, self.key = Path(path), tuple(columns), tuple(key)
        if not self.path.parent.is_dir() or self.path.is_dir():
            found = f"{path} is a folder" if self.path.is_dir() else f"there is no folder {self.path.parent}"
            raise FileNotFoundError(f"{found}.\n  Name a file in a folder that exists.")
        self._header = f"{TITLE}\n{','.join(self.columns)}\n".encode()
        self._about = f"# {_cell(about)}\n".encode() if about else b""
        self._read()

    def rows(self) -> dict[Key, dict[str, str]]:
        """Every row, as text, by its key."""
        return {self.key_of(row): row for _, row in self._read().lines if row is not None}

    def key_of(self, row: Mapping[str, Any]) -> Key:
        return tuple(_cell(row[column]) for column in self.key)

    def frame(self, keys: Iterable[Key]) -> pd.DataFrame:
        """The stored rows of these keys, in this order; keys without a row are left out."""
        lines = {self.key_of(row): line for line, row in self._read().lines if row is not None}
        text = "\n".join([",".join(self.columns), *(lines[key] for key in keys if key in lines)])
        return pd.read_csv(io.StringIO(text))

    def add(self, row: Mapping[str, Any]) -> bool:
        """Write the row, unless there is one with its key; say whether it was written."""
        with self._locked() as content:
            if self.key_of(row) in {self.key_of(other) for _, other in content.lines if other is not None}:
                return False
            header = b"" if content.end else self._header + self._about
            with open(self.path, "ab") as file:
                file.write(header + self._line(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            return True

    def mend(self) -> None:
        """Cut off an incomplete last line, with a warning."""
        if self._read().torn:
            with self._locked():
                pass

    def change(self, change: Callable[[dict[str, str]], Mapping[str, Any]]) -> None:
        """Overwrite cells: `change` gets every row as text and returns the new values of some columns."""
        with self._locked() as content:
            if not content.end:
                return
            lines = (line if row is None else self._line(row | change(row)) for line, row in content.lines)
            text = "".join(f"{line}\n" for line in lines)
            with written_whole(self.path) as beside:
                beside.write_bytes(self._header + text.encode())

    @contextmanager
    def _locked(self) -> Iterator[Content]:
        """Keep other processes from writing, and cut off an incomplete last line."""
        with FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS):
            content = self._read()
            if content.torn:
                os.truncate(self.path, content.end)
                said = content.torn.decode(errors="replace").strip("\0\n")
                said = said if len(said) <= 40 else f"{said[:40]}..."
                warn(f"the last line of {self.path.name} was torn, as by a kill: {said!r}. It was cut off.")
            yield content

    def _read(self) -> Content:
        content = self.path.read_bytes() if self.path.exists() else b""
        if content != self._header and self._header.startswith(content):
            return Content([], 0, content)
        whole, _, torn = content.rpartition(b"\n")
        title, *raw = (whole or torn).split(b"\n")
        self._check_header(title, *raw[:1])
        lines = []
        for number, line in enumerate(raw[1:], 3):
            cells = self._cells(line)
            if cells is not None:
                row = dict(zip(self.columns, cells, strict=True)) if cells else None
                lines.append((line.decode().rstrip("\r"), row))
            elif number == len(raw) + 1 and not torn:  # the last line, with its line end, but damaged
                torn = line + b"\n"
            else:
                raise ValueError(
                    f"line {number} of {self.path} is damaged: {line[:60].decode(errors='replace')!r}.\n"
                    f"  Asked for {len(self.columns)} cells, as its second line names them.\n"
                    f"  The file is left as it is. Delete that line, or name another file."
                )
        return Content(lines, len(content) - len(torn), torn)

    def _check_header(self, title: bytes, columns: bytes = b"") -> None:
        title, columns = (line.decode(errors="replace").rstrip("\r") for line in (title, columns))
        if (title, columns) == (TITLE, ",".join(self.columns)):
            return
        found = columns.split(",")
        if title != TITLE and title.startswith(TITLE[:-1]):
            why = f"was written by another version of fsc, in {title[2:]!r}; this one writes {TITLE[2:]!r}"
        elif title != TITLE:
            why = f"is not a store of fsc: its first line is {title[:60]!r} instead of {TITLE!r}"
        elif sorted(found) == sorted(self.columns):
            why = "has its columns in another order"
        else:
            extra = ", ".join(name for name in found if name not in self.columns) or "none"
            missing = ", ".join(name for name in self.columns if name not in found) or "none"
            why = f"has other columns: {extra} too many, {missing} missing"
        remedy = "Name another file, or use the version of fsc that wrote this one."
        raise ValueError(f"{self.path} {why}.\n  The file is left as it is. {remedy}")

    def _cells(self, line: bytes) -> list[str] | None:
        """The cells of a line; none for a comment or an empty line; None if the line is damaged."""
        try:
            text = line.decode().rstrip("\r")
            if not text or text.startswith("#"):
                return []
            (cells,) = csv.reader([text], strict=True)
        except (UnicodeDecodeError, csv.Error):
            return None
        return cells if len(cells) == len(self.columns) and "\0" not in text else None

    def _line(self, row: Mapping[str, Any]) -> str:
        return ",".join(_quoted(_cell(row.get(column))) for column in self.columns)


def _cell(value: Any) -> str:
    """The value as text on one line, from which pandas makes the value again; "" for None and NaN."""
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return ""
    if isinstance(value, Integral):
        return str(int(value))
    return repr(float(value)) if isinstance(value, Real) else " ".join(str(value).replace("\0", " ").split())


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(sign in cell for sign in ',"#') else cell
