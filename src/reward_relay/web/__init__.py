"""The HTTP side: webhooks in, the ops API, health and metrics."""
