"""Score base against tuned on held-out rows through the served endpoint."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("evaluate", __doc__)
