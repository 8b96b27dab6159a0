"""JSON lines in Alpaca's shape: {"instruction", "input"?, "output", "system"?, "id"?, "group"?, "tags"?}."""

from __future__ import annotations

from collections.abc import Iterator

from pilothouse.core.messages import Message
from pilothouse.data import lines
from pilothouse.data.base import Bad, Loaded, Reject, Source, build


class Alpaca:
    """Reads instruction rows; `input`, when there is one, follows the instruction after an empty line."""

    def rows(self, source: Source) -> Iterator[Loaded | Reject]:
        """Each row of the file, or why it is none."""
        for line, record in lines.objects(source):
            try:
                instruction, given = lines.string(record, "instruction"), lines.string(record, "input", default="")
                output, system = lines.string(record, "output"), lines.string(record, "system", default="")
                if not instruction.strip():
                    raise Bad("instruction", "empty message")
                if not output.strip():
                    raise Bad("output", "empty answer")
                turns = [Message("system", system)] if system.strip() else []
                turns.append(Message("user", f"{instruction}\n\n{given}" if given.strip() else instruction))
                turns.append(Message("assistant", output))
                row = build(
                    turns,
                    field="output",
                    id=lines.label(record, "id"),
                    group=lines.label(record, "group"),
                    tags=lines.tags(record),
                )
            except Bad as e:
                yield e.at(source, line)
            else:
                yield Loaded(line, row)


def create() -> Alpaca:
    """The loader; it has no options."""
    return Alpaca()
