"""Proof that the tables say what the platforms said: random stories, and every fault in turn."""
