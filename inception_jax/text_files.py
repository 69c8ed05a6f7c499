"""Reads text files that people write: lists of classes, lists of images.

Editors and spreadsheets write byte order marks, carriage returns, trailing spaces and separators
into such files. Unambiguous files are read. For any other file, an error names the file and the
line.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

_MARKS = {  # UTF-32 comes before UTF-16, because its mark begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_INVISIBLE = "\ufeff\u200b\u200e\u200f"  # zero-width characters, which `str.strip()` keeps
_SEPARATORS = ";,\t"
_COLUMNS = ("class", "class_name", "classname", "name", "label")


class Line(NamedTuple):
    """A line that is neither empty nor a comment.

    Attributes:
        number: line number in the file, from 1.
        text: text of the line, or of a name in it, without surrounding spaces.
    """

    number: int
    text: str


def read_text(
    path: str | os.PathLike[str], error: type[Exception] = ValueError, *, what: str = "text"
) -> str:
    """Reads a whole file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: path of the file.
        error: class of the error to raise.
        what: description of the content, for messages.

    Returns:
        The text, with line feeds as the only line breaks.

    Raises:
        error: if the file cannot be read, or if it has another encoding, which cannot be guessed
            safely. The message about an encoding names the first line that does not fit.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as problem:
        raise error(f"{path}: cannot be read as {what}: {problem.strerror}") from None
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise error(f"{path}, line {line}: holds a zero byte, so it is not {what} in UTF-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path}, line {line}: byte 0x{content[problem.start]:02x} is not {encoding.upper()}. "
            "Save the file as UTF-8; one in Latin-1 becomes it by "
            f"`iconv -f latin1 -t utf-8 {path} > NEW`"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike[str], error: type[Exception] = ValueError) -> list[Line]:
    """Returns a `Line` for each line of a file, except empty ones and comments that start with "#".

    Spaces around a line and separators at its end are removed: `cat;` becomes `cat`.

    Args:
        path: path of the file.
        error: class of the error to raise.

    Raises:
        error: if `read_text` fails, or if no line is left.
    """
    stripped = _INVISIBLE + " \t\n\v\f\u00a0"
    lines = [
        Line(number, line.strip(stripped).rstrip(_SEPARATORS + stripped))
        for number, line in enumerate(read_text(path, error).split("\n"), start=1)
    ]
    kept = [line for line in lines if line.text and not line.text.startswith("#")]
    if not kept:
        raise error(f"{path} cannot be read as a list: it names nothing; write one on each line")
    return kept


def read_class_names(
    path: str | os.PathLike[str], count: int, error: type[Exception] = ValueError
) -> tuple[str, ...]:
    """Reads the names of a network's classes, in the order of its outputs.

    Warns if two classes have the same name.

    Args:
        path: path of a text file with one name on each line, or with all names on one line,
            separated by semicolons, commas or tabs; or path of a `.csv` file whose header has a
            column `class`, `name` or `label`, such as `classes.csv` of a training run.
        count: number of classes.
        error: class of the error to raise.

    Raises:
        error: if the file cannot be read; if a name is empty; if a line has more than a name, such
            as `3: cat` or `cat; pet`; or if the number of names is not `count`.
    """
    is_table = Path(path).suffix.lower() == ".csv"
    lines = _column(path, error) if is_table else _separated(read_lines(path, error), count)
    for line in lines:
        _check_name(path, line, error)
    if len(lines) != count:
        raise error(f"{path} has {_counted(len(lines), 'name')} for {_counted(count, 'class')}")
    first: dict[str, int] = {}
    for line in lines:
        if line.text in first:
            warnings.warn(
                f"{path}, line {line.number}: {line.text!r} is also the name on line "
                f"{first[line.text]}: two classes cannot be told apart by name",
                stacklevel=2,
            )
        first.setdefault(line.text, line.number)
    return tuple(line.text for line in lines)


def _counted(count: int, what: str) -> str:
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{count} {what if count == 1 else plural}"


def _separated(lines: list[Line], count: int) -> list[Line]:
    """Splits the line of a one-line file into names, at semicolons, commas or tabs.

    Commas and tabs separate names only if this gives `count` names, the number of classes.

    Returns:
        A `Line` for each name, all with the same line number; `lines` itself if nothing is split.
    """
    if len(lines) > 1 or count < 2:
        return lines
    number, text = lines[0]
    for separator in _SEPARATORS:
        parts = [part.strip(_INVISIBLE + " \t\"'") for part in text.split(separator)]
        if len(parts) == count or (separator == ";" and len(parts) > 1):
            return [Line(number, part) for part in parts]
    return lines


def _check_name(path: str | os.PathLike[str], line: Line, error: type[Exception]) -> None:
    where = f"{path}, line {line.number}"
    if not line.text:
        raise error(f"{where}: a name is empty")
    numbered = re.match(r"\d+\s*[,:]\s*\S", line.text)
    if numbered or ";" in line.text or "\t" in line.text:
        raise error(
            f"{where}: {line.text!r} is more than a name: write the name alone, one on each line, "
            "in the order of the classes; or give a .csv with a column `class`"
        )


def _column(path: str | os.PathLike[str], error: type[Exception]) -> list[Line]:
    """Returns the class names in a column of the table at `path`, as a `Line` for each row.

    The column is the first of `_COLUMNS` that the header has. The table's separator is detected.

    Raises:
        error: if the file cannot be read, or lacks the column or a cell of it.
    """
    text = read_text(path, error, what="a table").lstrip(_INVISIBLE + "\n")
    header = text.partition("\n")[0]
    delimiter = max(_SEPARATORS, key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [cell.strip().lower() for cell in next(rows, [])]
    column = next((names.index(name) for name in _COLUMNS if name in names), None)
    if column is None:
        raise error(
            f"{path}, line 1: the header {header!r} has no column {', '.join(_COLUMNS[:-1])} or "
            f"{_COLUMNS[-1]}"
        )
    lines = []
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= column:
            raise error(f"{path}, line {rows.line_num}: has no column `{names[column]}`")
        lines.append(Line(rows.line_num, row[column].strip(_INVISIBLE + " \t\u00a0")))
    return lines
