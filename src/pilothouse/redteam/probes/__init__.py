"""One file a probe; its name is the file's, with dashes."""
