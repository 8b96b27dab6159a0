"""What every stage shares and nothing else: records, errors, registry, messages, timing, statistics, project file."""
