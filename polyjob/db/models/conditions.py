"""Conditions on rows. SQLite uses the partial indexes only because these repeat their conditions literally."""

from peewee import SQL

QUEUED = SQL("status = 'created' AND is_managed = 1 AND is_held = 0")
"""Jobs that wait to be claimed, in the order of their ids."""
DELAYED = SQL("wait_until IS NOT NULL AND is_held = 1 AND status = 'created'")
"""Jobs that wait for a time."""
CLAIMED = SQL("is_managed = 1 AND status IN ('scheduled', 'building', 'running')")
"""Jobs that the engine has claimed and not ended."""
DELETED = SQL("deleted_at IS NOT NULL")
LISTED = SQL("deleted_at IS NULL AND archived_at IS NULL")
"""Rows that lists show."""
UNDELETED = SQL("deleted_at IS NULL")
ARCHIVED = SQL("deleted_at IS NULL AND archived_at IS NOT NULL")
PENDING = SQL("next_try_at IS NOT NULL")
"""Deliveries that the engine still has to send."""
LIVE_BUILDS = SQL("is_managed = 1 AND finished_at IS NULL")
"""Builds that the engine has to run or to end."""
