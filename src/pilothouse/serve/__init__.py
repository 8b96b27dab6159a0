"""Serve: engines, each in a process of its own under a supervisor, behind one OpenAI-compatible gateway."""
