"""What does an attacker get out of it: probes against the served model, guard off and on, three-state outcomes."""
