"""Reward Relay: exactly one vendor order for every reward, and the platform hears how it ended."""

__version__ = "0.1.0"
