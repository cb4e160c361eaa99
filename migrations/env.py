"""Alembic's environment. It migrates the connection that `durable_chat.store.migrations` passes in."""

from __future__ import annotations

from alembic import context

from durable_chat.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
