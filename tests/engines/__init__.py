"""Engines too large for `make test`, for real: `make test-engines` installs and runs them."""
