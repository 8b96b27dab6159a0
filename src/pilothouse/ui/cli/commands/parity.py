"""Is what is served what was trained? Compares answers and log-probabilities."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("parity", __doc__)
