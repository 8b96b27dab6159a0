"""The gateway: one OpenAI-compatible front over engines, with keys, guard, metrics and records."""
