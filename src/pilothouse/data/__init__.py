"""From raw rows to a dataset that can be trusted: load, clean, scrub, split, decontaminate, plant canaries."""
