"""Which foundation model fits the use and this machine? Memory, speed bound, licence."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("choose", __doc__)
