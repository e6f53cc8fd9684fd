"""The chaos harness: a relay of real processes that are killed, a far side that misbehaves, and honest counting."""
