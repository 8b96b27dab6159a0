"""Gates over all evidence, the verdict, parity, the release card; and the turn of the loop that gathers the evidence."""
