"""Whether responses are right, alone or many at once, and what numbers of them say."""
