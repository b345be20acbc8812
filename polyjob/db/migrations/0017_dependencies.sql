-- Jobs that wait for the end of other jobs. A row whose condition is not met yet follows the retries of the other job.

CREATE TABLE dependency (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    upstream_id INTEGER REFERENCES job (id) ON DELETE SET NULL,
    condition TEXT NOT NULL,
    is_met INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX dependency_job ON dependency (job_id);
CREATE INDEX dependency_upstream ON dependency (upstream_id) WHERE upstream_id IS NOT NULL;

-- Whether a job waits for others, and others for it, so that most jobs need no look-up in the table. Config and content
-- stay the last columns; see 0011.

ALTER TABLE job RENAME COLUMN config TO old_config;
ALTER TABLE job RENAME COLUMN content TO old_content;
ALTER TABLE job ADD COLUMN has_dependencies INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN is_awaited INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN config TEXT;
ALTER TABLE job ADD COLUMN content TEXT;
UPDATE job SET config = old_config, content = old_content;
ALTER TABLE job DROP COLUMN old_config;
ALTER TABLE job DROP COLUMN old_content;

-- Removing a job removes the links of those that waited for it, which is a visible change of them.

CREATE TRIGGER dependency_unlinked BEFORE DELETE ON job
BEGIN
    UPDATE job SET version = version + 1 WHERE id IN (SELECT job_id FROM dependency WHERE upstream_id = OLD.id);
END;
