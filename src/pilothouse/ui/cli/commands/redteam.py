"""Attack the served model, guard off and on: attack success rates."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("redteam", __doc__)
