"""The versions of the tables, applied by :func:`aae.storage.engine.upgrade`."""
