"""Entry point: finds a command by its file, runs it, and turns mistakes into one line and an exit code."""

from __future__ import annotations

import ast
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import click

from pilothouse.core.errors import UserError

_COMMANDS = Path(__file__).parent / "commands"
_LOOP = "init ship up choose pull data unpack tune export evaluate parity guard redteam measure serve"
_ORDER = {name: place for place, name in enumerate(f"{_LOOP} keys show list lineage engines doctor".split())}


class Commands(click.Group):
    """A group whose commands are files; `--help` reads their first docstring lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {info.name.replace("_", "-") for info in pkgutil.iter_modules([str(_COMMANDS)])}
        return sorted(names, key=lambda n: (_ORDER.get(n, len(_ORDER)), n))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = import_module(f"pilothouse.ui.cli.commands.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in (known := self.list_commands(ctx)):
            import difflib

            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "See: pilothouse --help"
            raise UserError(f"no command is called {args[0]!r}", fix=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            source = (_COMMANDS / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
            doc = ast.get_docstring(ast.parse(source)) or ""
            rows.append((name, doc.partition("\n")[0]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pilothouse")
def cli() -> None:
    """From an open foundation model to a governed production service, and back round the loop.

    Start with: pilothouse ship examples/airline
    """


def main() -> None:
    """Run the command line. Exit codes: 0 fine or ship, 1 hold, 2 bad input, 3 not enough evidence, 130 interrupted."""
    try:
        code = cli.main(standalone_mode=False)
    except UserError as e:
        _say(f"error: {e.line()}")
        code = 2
    except click.ClickException as e:
        where = f"{e.ctx.command_path}: " if isinstance(e, click.UsageError) and e.ctx else ""
        _say(f"error: {where}{e.format_message()}")
        code = 2
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; the same command goes on from where it stopped")
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _say(line: str) -> None:
    click.echo(line, err=True)
