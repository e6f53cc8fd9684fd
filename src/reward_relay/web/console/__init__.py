"""The console: pages for people, made on the server. `router` has all of them, `problem` their errors."""

from reward_relay.web.console.pages import problem, router

__all__ = ["problem", "router"]
