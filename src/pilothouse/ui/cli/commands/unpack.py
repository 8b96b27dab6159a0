"""Unpack the model's GGUF into the layout that training reads."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("unpack", __doc__)
