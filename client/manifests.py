from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from client.errors import ConfigurationError
from client.questions import Question, Source

SUFFIXES = {".csv", ".tsv", ".jsonl", ".ndjson"}
IMAGE_COLUMNS = ("images", "image", "file", "path", "url", "image_url")
PROMPT_COLUMN, ID_COLUMN = "prompt", "id"
SEPARATOR = "|"
"""Between the images of one cell of a CSV; a JSONL manifest has lists."""

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^\W\d]\w*)\}")
_ENCODINGS = ("utf-8-sig", "gb18030")
_SNIFFED = 1 << 16
_LONGEST_CELL = 1 << 24
_SHOWN = 60


def is_manifest(source: str) -> bool:
    """Whether a source's name ends as manifests' do."""
    return Path(source).suffix.lower() in SUFFIXES


def rows(path: Path, template: str = "") -> Iterator[Question]:
    """The questions of a CSV or JSONL manifest, one by one as the file is read.

    A row names its images in one of `IMAGE_COLUMNS` (files from the manifest's folder, or URLs), its own question in
    `prompt` and itself in `id`; without an id it is called `manifest.csv#7`, its line. A row that cannot be asked comes
    as a Question with its `problem`.

    Args:
        path: in UTF-8; a CSV also as Chinese spreadsheets save it (GB 18030).
        template: the prompt, with the row's columns in braces: `{company}`. Double braces stand for themselves.

    Raises:
        ConfigurationError: unreadable, or no row of it can name an image.
    """
    try:
        yield from _csv(path, template) if path.suffix.lower() in {".csv", ".tsv"} else _jsonl(path, template)
    except OSError as error:
        raise ConfigurationError(f"the manifest {path} cannot be read: {error.strerror or error}") from error


def _csv(path: Path, template: str) -> Iterator[Question]:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding=_encoding(path), errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        header = [name.strip() for name in next(reader, [])]
        if not set(header) & set(IMAGE_COLUMNS):
            found = ", ".join(header)[:_SHOWN] or "an empty file"
            raise ConfigurationError(f"the manifest {path} has no column {_alternatives()}: found {found}")
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Question(f"{path}#{reader.line_num}", (), problem=f"not a row of a CSV: {error}")
                continue
            if cells is None:
                return
            if cells:
                yield _from_cells(path, reader.line_num, header, cells, template)


def _from_cells(path: Path, line: int, header: list[str], cells: list[str], template: str) -> Question:
    if len(cells) > len(header):
        reason = f"the row has {len(cells)} cells, the header {len(header)}: is a comma or quote amiss?"
        return Question(f"{path}#{line}", (), problem=reason)
    return _question(path, line, dict(zip(header, cells, strict=False)), template)


def _jsonl(path: Path, template: str) -> Iterator[Question]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield Question(f"{path}#{line}", (), problem=f"not JSON: {error}")
                continue
            if isinstance(row, dict):
                yield _question(path, line, row, template)
            else:
                yield Question(f"{path}#{line}", (), problem="not a JSON object")


def _encoding(path: Path) -> str:
    """UTF-8 unless the beginning is something else; a character cut in half at its end tells nothing."""
    with path.open("rb") as file:
        head = file.read(_SNIFFED)
    for encoding in _ENCODINGS:
        for cut in range(4):
            with suppress(UnicodeDecodeError):
                head[: len(head) - cut].decode(encoding)
                return encoding
    return _ENCODINGS[0]


def _question(path: Path, line: int, row: Mapping[str, Any], template: str) -> Question:
    name = str(row.get(ID_COLUMN) or f"{path}#{line}")
    if not _is_text(json.dumps(row, ensure_ascii=False)):
        return Question(f"{path}#{line}", (), problem="the row holds bytes that are not UTF-8")
    images = tuple(_source(path, image) for image in _images(row))
    if not images:
        return Question(name, (), problem=f"the row names no image in {_alternatives()}")
    own = row.get(PROMPT_COLUMN)
    try:
        prompt = str(own) if own and not _names_prompt(template) else filled(template, row)
    except KeyError as error:
        columns = ", ".join(row)[:_SHOWN]
        return Question(name, images, problem=f"the prompt names {{{error.args[0]}}}, and the columns are {columns}")
    return (
        Question(name, images, prompt) if prompt else Question(name, images, problem="no prompt: no --prompt, no cell")
    )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names_prompt(template: str) -> bool:
    return f"{{{PROMPT_COLUMN}}}" in template


def filled(template: str, row: Mapping[str, Any]) -> str:
    """The template with the row's values. KeyError: it names a column that is not there."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        found = row[match[1]]
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    return _PLACEHOLDER.sub(value, template)


def _images(row: Mapping[str, Any]) -> list[str]:
    for column in IMAGE_COLUMNS:
        if given := row.get(column):
            listed = given if isinstance(given, list) else str(given).split(SEPARATOR)
            return [str(image).strip() for image in listed if str(image).strip()]
    return []


def _source(path: Path, image: str) -> Source:
    return image if image.startswith(("http://", "https://", "oss://", "data:")) else path.parent / image


def _alternatives() -> str:
    *others, last = IMAGE_COLUMNS
    return f"{', '.join(others)} or {last}"
