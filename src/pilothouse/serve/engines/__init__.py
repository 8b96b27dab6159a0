"""The engines, one file each. A name with a leading underscore is a part of an engine, not an engine."""
