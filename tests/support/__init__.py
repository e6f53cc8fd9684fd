"""What several tests need: a configured relay, the far side, and the senders of webhooks."""
