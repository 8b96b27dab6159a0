"""Did the attack succeed? One file a kind of evidence; pure functions from an answer to a judgement."""
