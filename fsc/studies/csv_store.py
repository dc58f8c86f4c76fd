"""A table that grows by lines in a text file, and that neither a kill nor a second process spoils."""

import csv
import io
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock

from fsc.runtime import warn

FORMAT = 1
TITLE = f"# fsc study, format {FORMAT}"
PATIENCE = 60
"""Seconds to wait for another process that holds the file; it needs milliseconds."""

Key = tuple[str, ...]


class Found(NamedTuple):
    """What the file holds: its whole lines with their cells (None: a comment), where they end, what is torn behind."""

    lines: list[tuple[str, dict[str, str] | None]]
    end: int
    torn: bytes


class Store:
    """Rows in a CSV file that `pandas.read_csv(path, comment="#")` reads; each has a key of its own.

    A row is written in one go behind the last, under a lock (the file PATH.lock), and is on the disk when `add`
    returns. Whoever is killed while it writes leaves a torn last line: that is cut off before the next row is written,
    with a warning. Reading takes no lock and overlooks a torn line, which may be one that is just being written.

    Args:
        path: need not exist; its folder must.
        columns: of every row.
        key: those of the columns that tell one row from another.
        who: the public function, for errors.

    Raises:
        FileNotFoundError: the folder does not exist; or `path` is one.
        ValueError: the file was written by another version, has other columns, is none of ours, or a line in its midst
            is damaged; it is left as it is.
    """

    def __init__(self, path: str | os.PathLike, columns: Sequence[str], key: Sequence[str], *, who: str):
        self.path, self.columns, self.key, self._who = Path(path), tuple(columns), tuple(key), who
        if not self.path.parent.is_dir() or self.path.is_dir():
            found = f"{path} is a folder" if self.path.is_dir() else f"there is no folder {self.path.parent}"
            raise FileNotFoundError(f"{who}: {found}.\n  Name a file in a folder that exists.")
        self._header = f"{TITLE}\n{','.join(self.columns)}\n".encode()
        self._read()

    def rows(self) -> dict[Key, dict[str, str]]:
        """Every row, as text, by its key."""
        return {self.key_of(row): row for _, row in self._read().lines if row is not None}

    def key_of(self, row: Mapping[str, Any]) -> Key:
        return tuple(_cell(row[column]) for column in self.key)

    def frame(self, keys: Iterable[Key]) -> pd.DataFrame:
        """The rows of these keys that are there, in this order."""
        lines = {self.key_of(row): line for line, row in self._read().lines if row is not None}
        text = "\n".join([",".join(self.columns), *(lines[key] for key in keys if key in lines)])
        return pd.read_csv(io.StringIO(text))

    def add(self, row: Mapping[str, Any]) -> bool:
        """Write a row, unless one of its key is there; say whether it was written."""
        with self._locked() as found:
            if self.key_of(row) in {self.key_of(other) for _, other in found.lines if other is not None}:
                return False
            with open(self.path, "ab") as file:
                file.write((b"" if found.end else self._header) + self._line(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            return True

    def mend(self) -> None:
        """Cut off a torn last line, with a warning."""
        if self._read().torn:
            with self._locked():
                pass

    def change(self, change: Callable[[dict[str, str]], Mapping[str, Any]]) -> None:
        """Put other values into cells: `change` gets every row as text and returns the cells to overwrite.

        The file is whole at any moment: the new one is written beside it and takes its place.
        """
        with self._locked() as found:
            if not found.end:
                return
            handle, beside = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name, suffix=".part")
            try:
                with open(handle, "wb") as file:
                    lines = (line if row is None else self._line(row | change(row)) for line, row in found.lines)
                    file.write(self._header + "".join(f"{line}\n" for line in lines).encode())
                    file.flush()
                    os.fsync(file.fileno())
                shutil.copymode(self.path, beside)
                os.replace(beside, self.path)
            finally:
                Path(beside).unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[Found]:
        """Alone with the file, and with its last line whole."""
        with FileLock(f"{self.path}.lock", timeout=PATIENCE):
            found = self._read()
            if found.torn:
                os.truncate(self.path, found.end)
                said = found.torn.decode(errors="replace").strip("\0\n")
                warn(
                    f"{self._who}: the last line of {self.path.name} was torn, as by a kill in the middle of writing: "
                    f"{said if len(said) <= 40 else f'{said[:40]}...'!r}. It has been cut off."
                )
            yield found

    def _read(self) -> Found:
        content = self.path.read_bytes() if self.path.exists() else b""
        if content != self._header and self._header.startswith(content):
            return Found([], 0, content)
        whole, _, torn = content.rpartition(b"\n")
        title, *raw = (whole or torn).split(b"\n")
        self._check_header(title, *raw[:1])
        lines = []
        for number, line in enumerate(raw[1:], 3):
            cells = self._cells(line)
            if cells is None and number == len(raw) + 1 and not torn:
                torn = line + b"\n"
            elif cells is None:
                raise ValueError(
                    f"{self._who}: line {number} of {self.path} is damaged: {line[:60].decode(errors='replace')!r}.\n"
                    f"  Asked for {len(self.columns)} cells, as its second line names them.\n"
                    f"  The file is left as it is. Delete that line, or name another file."
                )
            else:
                row = dict(zip(self.columns, cells, strict=True)) if cells else None
                lines.append((line.decode().rstrip("\r"), row))
        return Found(lines, len(content) - len(torn), torn)

    def _check_header(self, title: bytes, columns: bytes = b"") -> None:
        said, named = (line.decode(errors="replace").rstrip("\r") for line in (title, columns))
        if said == TITLE and named == ",".join(self.columns):
            return
        if said == TITLE:
            there = named.split(",")
            more, less = ([c for c in a if c not in b] for a, b in ((there, self.columns), (self.columns, there)))
            why = f"has other columns: {', '.join(more) or 'none'} too many, {', '.join(less) or 'none'} missing"
            if not more and not less:
                why = "has its columns in another order"
        elif said.startswith(TITLE.rpartition(" ")[0]):
            why = f"was written by another version of fsc, in {said[2:]!r}; this one writes {TITLE[2:]!r}"
        else:
            why = f"is none of its stores: its first line is {said[:60]!r} instead of {TITLE!r}"
        raise ValueError(
            f"{self._who}: {self.path} {why}.\n"
            f"  The file is left as it is. Name another file, or use the version of fsc that wrote this one."
        )

    def _cells(self, line: bytes) -> list[str] | None:
        """The cells of a line, none for a comment or an empty line; None: the line is damaged."""
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
    """A value as text on one line, from which pandas makes the value again; nothing for None and NaN."""
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return ""
    if isinstance(value, Integral):
        return str(int(value))
    return repr(float(value)) if isinstance(value, Real) else " ".join(str(value).replace("\0", " ").split())


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(sign in cell for sign in ',"#') else cell
