"""Chaos: whatever is killed, slow, wrong or gone, the tables end as if nothing had happened."""
