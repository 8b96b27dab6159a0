"""How good are the answers: metrics over held-out rows, arms paired by row, through the served endpoint."""
