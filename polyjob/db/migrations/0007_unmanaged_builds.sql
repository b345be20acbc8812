-- Builds that a client drives by posting their statuses. The engine passes over them.

ALTER TABLE build ADD COLUMN is_managed INTEGER NOT NULL DEFAULT 1;
DROP INDEX build_live;
CREATE INDEX build_live ON build (id) WHERE is_managed = 1 AND finished_at IS NULL;
