"""One file a metric; its name is the file's, with dashes."""
