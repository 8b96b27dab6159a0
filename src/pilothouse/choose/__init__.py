"""Which foundation model: facts from file, configuration or catalogue; fit in memory; a bound on speed; licence."""
