"""Telling people: what to say (messages), how a mail is made and leaves (email), and the outbox in between."""
