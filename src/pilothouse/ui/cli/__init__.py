"""The command line: one file a command in `commands/`, imported when it is called."""
