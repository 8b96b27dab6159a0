"""Gates over all evidence, verdict, parity, release card; and the turn of the loop that gathers the evidence."""
