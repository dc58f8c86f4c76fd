"""The store: pandas reads what was written, and kills, other processes and strange files do no harm."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest

from fsc.studies.csv_store import Store

ROOT = Path(__file__).resolve().parents[2]
COLUMNS, KEY = ("name", "number", "value", "error"), ("name", "number")


def new(path):
    return Store(path, COLUMNS, KEY)


def row(number, **cells):
    return {"name": "a", "number": number, "value": number / 7} | cells


def read(path):
    return pd.read_csv(path, comment="#")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.csv"


def test_pandas_reads_the_rows_with_their_types(path):
    store = new(path)
    assert [store.add(row(i)) for i in range(3)] == [True, True, True]
    table = read(path)
    assert list(table.columns) == list(COLUMNS)
    assert table.number.tolist() == [0, 1, 2] and table.value.tolist() == [0, 1 / 7, 2 / 7]
    assert table.error.isna().all()


@pytest.mark.parametrize("text", [
    "a, b", 'he said "no"', "# no comment", 'RuntimeError: 3 "x", # 4', "über", "'", "50 %", "-", "=1+1",
    "a;b", "\\n",
])  # fmt: skip
def test_any_text_comes_out_as_it_went_in(path, text):
    new(path).add(row(1, name=text, error=text))
    assert read(path).loc[0, ["name", "error"]].tolist() == [text, text]
    assert new(path).frame([(text, "1")]).loc[0, "error"] == text


def test_a_text_of_several_lines_becomes_one(path):
    new(path).add(row(1, error="TypeError: no\n  Found: 3\r\n\n  Do\tthis.\x0b\x85 \0"))
    assert read(path).error[0] == "TypeError: no Found: 3 Do this."
    assert path.read_bytes().count(b"\n") == 3


def test_nothing_is_written_for_none_and_nan(path):
    new(path).add({"name": "a", "number": None, "value": float("nan")})
    assert path.read_text().splitlines()[-1] == "a,,,"


def test_a_row_of_the_same_key_is_not_written_twice(path):
    one, other = new(path), new(path)
    assert one.add(row(1, value=5.0)) and not other.add(row(1, value=6.0)) and other.add(row(1, name="b"))
    assert read(path).value.tolist() == [5.0, 1 / 7]


def test_rows_come_in_the_order_asked_and_those_missing_are_left_out(path):
    store = new(path)
    for number in (3, 1, 2):
        store.add(row(number))
    assert store.frame([("a", "2"), ("a", "9"), ("a", "3")]).number.tolist() == [2, 3]


def test_wherever_the_last_line_is_torn_it_is_cut_off_and_said(path):
    store = new(path)
    for number in range(2):
        store.add(row(number, error='a "torn", line'))
    whole, ends = path.read_bytes(), [0]
    while ends[-1] < len(whole):
        ends.append(whole.index(b"\n", ends[-1]) + 1)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        left = max(end for end in ends if end <= cut)
        left = 0 if left < ends[2] else left               # half a header is none
        if cut in ends[2:] or cut == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                new(path).mend()
        else:
            with pytest.warns(UserWarning, match="the last line of rows.csv was torn"):
                new(path).mend()
        assert path.read_bytes() == whole[:left]
    with pytest.warns(UserWarning, match="torn"):
        path.write_bytes(whole[:-1])
        new(path).add(row(1, error='a "torn", line'))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"\0" * 40, b"a,2,\0\0\0\0\n", b"\xff\xfe\n", b"a,3\n", b'"a,1,2,\n'])
def test_a_last_line_of_rubbish_is_cut_off_too(path, tail):
    store = new(path)
    store.add(row(1))
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert list(store.rows()) == [("a", "1")] and path.read_bytes() == whole + tail  # reading changes nothing
    with pytest.warns(UserWarning, match="torn"):
        store.mend()
    assert path.read_bytes() == whole


def refused(path, content, words):
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        new(path)
    assert str(path) in str(caught.value)
    for word in (*words, "The file is left as it is"):
        assert word in str(caught.value)
    assert path.read_bytes() == content


def test_a_damaged_line_before_the_last_is_refused(path):
    store = new(path)
    for number in range(3):
        store.add(row(number))
    lines = path.read_bytes().split(b"\n")
    lines[3] = lines[3][:3]
    refused(path, b"\n".join(lines), ["line 4 of", "'a,1'", "Asked for 4 cells"])


@pytest.mark.parametrize("content, words", [
    ("# fsc study, format 2\nname,number\n",
     ["another version of fsc, in 'fsc study, format 2'", "study, format 1'"]),
    ("# fsc study, format 1\nname,number,value,colour\n", ["other columns: colour too many, error missing"]),
    ("# fsc study, format 1\nname,number,error,value\n", ["in another order"]),
    ("name,number,value,error\na,1,2,\n", ["not a store of fsc", "'name,number,value,error'"]),
    ("# by hand\nname,number,value,error\n", ["not a store of fsc", "'# by hand'"]),
    ("a letter", ["not a store of fsc", "'a letter'"]),
])  # fmt: skip
def test_a_file_of_another_version_or_make_is_left_alone(path, content, words):
    refused(path, content.encode(), words)


def test_a_place_where_no_file_can_be_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        new(tmp_path / "nowhere" / "rows.csv")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        new(tmp_path)


def test_a_new_file_says_on_its_third_line_what_it_is_about(path):
    for about in ("measured by hand", "another"):
        store = Store(path, COLUMNS, KEY, about)
        store.add(row(1))
        store.add(row(2))
    assert path.read_text().splitlines()[2] == "# measured by hand" and read(path).number.tolist() == [1, 2]


def test_an_empty_file_is_a_new_store(path):
    path.touch()
    new(path).add(row(1))
    assert read(path).number.tolist() == [1]


def test_cells_can_be_changed_and_all_else_stays(path):
    store = new(path)
    for number in range(3):
        store.add(row(number))
    path.write_bytes(path.read_bytes().replace(b"a,1,", b"# a reader's own remark\na,1,"))
    before, mode = path.read_text().splitlines(), path.stat().st_mode
    store.change(lambda cells: {"error": "late"} if cells["number"] == "1" else {})
    after = path.read_text().splitlines()
    assert after == [*before[:4], before[4] + "late", *before[5:]] and path.stat().st_mode == mode
    assert not list(path.parent.glob("*.part"))


def test_a_spreadsheet_s_line_ends_are_taken(path):
    new(path).add(row(1))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    store = new(path)
    assert not store.add(row(1)) and store.add(row(2))
    assert read(path).number.tolist() == [1, 2]


WRITER = """
import sys
from fsc.studies.csv_store import Store
store = Store(sys.argv[1], ("name", "number", "value", "error"), ("name", "number"))
print("ready", flush=True)
for number in range(int(sys.argv[2])):
    store.add({"name": "a", "number": number, "value": number / 7, "error": "x" * 5000})
"""


def writer(path, rows):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(rows)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_that_write_at_once_write_every_row_once(path):
    processes = [writer(path, 40) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    table = read(path)
    assert sorted(table.number) == list(range(40)) and (table.error == "x" * 5000).all()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.filterwarnings("ignore:the last line")
def test_a_process_killed_while_it_writes_loses_at_most_that_row(path):
    for _ in range(3):
        process = writer(path, 100_000)
        before = path.stat().st_size if path.exists() else 0
        while path.stat().st_size < before + 50_000 if path.exists() else True:
            time.sleep(0.003)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        new(path).mend()
        assert read(path).number.tolist() == list(range(len(new(path).rows())))
    assert new(path).add(row(-1))
