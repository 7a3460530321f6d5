"""Alembic's entry point: runs the versions on the connection that ``aae.storage.engine.upgrade`` hands over."""

from alembic import context

from aae.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
