"""Talkable, a referral platform: reward webhooks in, classic or from a Custom App; a note on the person out."""
