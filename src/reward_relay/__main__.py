"""`python -m reward_relay` is the command line."""

from reward_relay.cli import app

app()
