"""Hostile requests against every door of the relay, in the tests and as a command (`make fuzz`)."""
