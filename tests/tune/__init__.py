"""Tests of tuning and export."""
