"""The vendors that the relay orders from, listed one by one. A new one is a folder beside these and a line here."""
