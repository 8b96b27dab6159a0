"""`python -m pilothouse`."""

from pilothouse.ui.cli.main import main

main()
