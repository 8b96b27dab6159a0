"""What goes wrong because of input or surroundings, said in one line: what, where, what to do."""

from __future__ import annotations


class UserError(Exception):
    """A mistake or a lack that the user can mend. The CLI prints `line()` and exits with 2; no traceback.

    what: what is wrong, with the bad value by `!r`. where: file, key or line. fix: the next step.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(self.line())

    def line(self) -> str:
        """One line, without a final newline."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.fix:
            text = f"{text.rstrip('.')}. {self.fix}"
        return " ".join(text.split())


class MissingExtra(UserError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library!r}, which is not installed",
            fix=f"Install it with: pip install 'pilothouse[{extra}]'",
        )


def need(library: str, extra: str, purpose: str) -> None:
    """Raise MissingExtra unless `library` can be imported (it is not imported here)."""
    from importlib.util import find_spec

    if find_spec(library) is None:
        raise MissingExtra(library, extra, purpose)
