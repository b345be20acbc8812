-- Jobs whose log and outputs were removed to make room; the row stays.

ALTER TABLE job ADD COLUMN cleared_at INTEGER;
CREATE INDEX job_kept ON job (finished_at) WHERE cleared_at IS NULL AND deleted_at IS NULL;

-- The GPUs that a job holds, by index, from its claim to its end.

ALTER TABLE job ADD COLUMN gpus TEXT;
