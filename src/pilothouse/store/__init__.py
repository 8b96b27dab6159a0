"""One database and content-addressed files: assets, runs, exchanges, feedback, audit; and where assets come from."""
