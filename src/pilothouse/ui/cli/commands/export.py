"""Turn base and adapter into what the engine serves."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("export", __doc__)
