"""Which engine answers this request? Members and their state, circuits, prefixes, admission, and the choice."""
