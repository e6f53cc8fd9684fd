"""The platforms that the relay understands, listed one by one. A new one is a folder beside these and a line here."""
