"""One scheduled job each: when and what, never how."""
