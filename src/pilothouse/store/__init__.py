"""One database and content-addressed files: assets, runs, exchanges, feedback, audit; and the sources they come from."""
