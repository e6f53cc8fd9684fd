"""Roster, an ambassador platform: product rewards by webhook."""
