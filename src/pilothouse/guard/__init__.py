"""Detectors, the policy that arranges them, and exact guarding of streams."""
