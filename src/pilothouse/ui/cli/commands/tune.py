"""Adapt the model (LoRA and others); ctrl-C and the same command goes on."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("tune", __doc__)
