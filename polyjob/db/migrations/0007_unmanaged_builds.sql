-- Builds that a client runs, and whose statuses it posts. The engine ignores them.

ALTER TABLE build ADD COLUMN is_managed INTEGER NOT NULL DEFAULT 1;
DROP INDEX build_live;
CREATE INDEX build_live ON build (id) WHERE is_managed = 1 AND finished_at IS NULL;
