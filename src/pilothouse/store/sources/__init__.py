"""Where files come from: one file a source, named by the scheme of its references (`hub:`, `pypi:`, `file:`)."""
