"""The console: pages for people, made on the server. `router` has all of them, `problem` their errors.

`static/htmx.min.js` is htmx 2.0.11 as its makers publish it (Zero-Clause BSD); nothing is loaded from another address.
"""

from reward_relay.web.console.pages import problem, router

__all__ = ["problem", "router"]
