"""CSV with a header: one question and one answer a record; options name the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from pilothouse.core.errors import UserError
from pilothouse.core.messages import Message, Row
from pilothouse.data import lines
from pilothouse.data.base import Bad, Loaded, Reject, Source, build


class CsvRows:
    """Reads records by column name; a record may span lines, and errors name the line that it begins on."""

    def __init__(self, question: str, answer: str, id: str, group: str, tags: tuple[str, ...], delimiter: str) -> None:
        self.question, self.answer, self.id, self.group, self.tags = question, answer, id, group, tags
        self.delimiter = delimiter

    def rows(self, source: Source) -> Iterator[Loaded | Reject]:
        """Each row of the file, or why it is none."""
        reader = csv.reader((line for _, line in lines.text(source)), delimiter=self.delimiter, strict=True)
        header: list[str] = []
        line = 1
        try:
            for cells in reader:
                start, line = line, reader.line_num + 1
                if not cells:
                    continue
                if not header:
                    header = self._checked(cells, source, start)
                    continue
                try:
                    if len(cells) != len(header):
                        raise Bad("", "wrong number of cells", f"{len(cells)}, the header has {len(header)}")
                    row = self._row(dict(zip(header, cells, strict=True)))
                except Bad as e:
                    yield e.at(source, start)
                else:
                    yield Loaded(start, row)
        except csv.Error as e:
            raise UserError(f"not valid CSV: {e}", where=f"{source.shown}:{line}") from None

    def _checked(self, header: list[str], source: Source, line: int) -> list[str]:
        for column in (self.question, self.answer, self.id, self.group, *self.tags):
            if column and column not in header:
                raise UserError(
                    f"there is no column {column!r}",
                    where=f"{source.shown}:{line}",
                    fix=f"The columns are {', '.join(header)}; choose with data.options (question, answer, …).",
                )
        return header

    def _row(self, record: dict[str, str]) -> Row:
        if not record[self.question].strip():
            raise Bad(self.question, "empty message")
        if not record[self.answer].strip():
            raise Bad(self.answer, "empty answer")
        return build(
            [Message("user", record[self.question]), Message("assistant", record[self.answer])],
            field=self.answer,
            id=record[self.id].strip() if self.id else "",
            group=record[self.group].strip() if self.group else "",
            tags=tuple(record[t] for t in self.tags if record[t]),
        )


def create(
    question: str = "question",
    answer: str = "answer",
    id: str = "",
    group: str = "",
    tags: list[str] | tuple[str, ...] = (),
    delimiter: str = ",",
) -> CsvRows:
    """question, answer, id, group: names of columns; tags: names of columns whose cells become tags."""
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise UserError(f"the delimiter must be one character, got {delimiter!r}", where="data.options.delimiter")
    return CsvRows(question, answer, id, group, tuple(tags), delimiter)
