"""One file a detector: what it finds and how it behaves in a stream."""
