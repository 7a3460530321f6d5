"""The whole product on one machine: the embedded stack, and `aae demo` and `aae up` on top of it."""
