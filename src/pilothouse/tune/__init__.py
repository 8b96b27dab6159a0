"""Adapt a foundation model: GGUF to weights, LoRA training that can be interrupted, back to what an engine serves."""
