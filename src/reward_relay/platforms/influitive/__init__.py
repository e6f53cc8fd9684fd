"""Influitive AdvocateHub: rewards redeemed by advocates, by webhook or by asking for the open list."""
