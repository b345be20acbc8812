-- When garbage collection removed the log and outputs of a job. The row stays.

ALTER TABLE job ADD COLUMN cleared_at INTEGER;
CREATE INDEX job_kept ON job (finished_at) WHERE cleared_at IS NULL AND deleted_at IS NULL;

-- Indices of the GPUs that a job holds from its claim to its end.

ALTER TABLE job ADD COLUMN gpus TEXT;
