"""The guard's price sheet: attacks blocked, false blocks, added latency."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("guard", __doc__)
