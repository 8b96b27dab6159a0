"""Make the clean data set: validate, deduplicate, scrub, split, check contamination."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("data", __doc__)
