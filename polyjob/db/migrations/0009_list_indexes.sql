-- Lists of jobs: an index for each order, and for each filter. Those of statuses and users are in the usual orders.

CREATE INDEX job_started ON job (project_id, started_at, id) WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_finished ON job (project_id, finished_at, id) WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_by_status_created ON job (project_id, status, created_at, id, user_id)
WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_by_status_updated ON job (project_id, status, updated_at, id, user_id)
WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_by_user_created ON job (project_id, user_id, created_at, id)
WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_by_user_updated ON job (project_id, user_id, updated_at, id)
WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_by_runner ON job (project_id, runner, id) WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_by_exit_code ON job (project_id, exit_code, id)
WHERE exit_code <> 0 AND deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_by_cloning_strategy ON job (project_id, cloning_strategy, id)
WHERE cloning_strategy IS NOT NULL AND deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_described ON job (project_id, id)
WHERE description IS NOT NULL AND deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_unmanaged ON job (project_id, id)
WHERE is_managed = 0 AND deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_code ON job (code_id) WHERE code_id IS NOT NULL;
CREATE INDEX job_archived_created ON job (project_id, created_at, id)
WHERE deleted_at IS NULL AND archived_at IS NOT NULL;
CREATE INDEX job_archived_updated ON job (project_id, updated_at, id)
WHERE deleted_at IS NULL AND archived_at IS NOT NULL;

-- The tags of the jobs that lists show. Triggers maintain it.

CREATE TABLE job_tag (
    job_id INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    project_id INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (job_id, tag)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_tag_created ON job_tag (project_id, tag, created_at, job_id);
CREATE INDEX job_tag_updated ON job_tag (project_id, tag, updated_at, job_id);

INSERT OR IGNORE INTO job_tag (job_id, tag, project_id, created_at, updated_at)
SELECT job.id, tags.value, job.project_id, job.created_at, job.updated_at FROM job, json_each(job.tags) AS tags
WHERE job.tags IS NOT NULL AND job.deleted_at IS NULL AND job.archived_at IS NULL AND tags.type = 'text';

CREATE TRIGGER job_tag_insert AFTER INSERT ON job
WHEN NEW.tags IS NOT NULL AND NEW.deleted_at IS NULL AND NEW.archived_at IS NULL
BEGIN
    INSERT OR IGNORE INTO job_tag (job_id, tag, project_id, created_at, updated_at)
    SELECT NEW.id, value, NEW.project_id, NEW.created_at, NEW.updated_at FROM json_each(NEW.tags) WHERE type = 'text';
END;
CREATE TRIGGER job_tag_change AFTER UPDATE OF tags, created_at, deleted_at, archived_at ON job
WHEN OLD.tags IS NOT NULL OR NEW.tags IS NOT NULL
BEGIN
    DELETE FROM job_tag WHERE job_id = NEW.id;
    INSERT OR IGNORE INTO job_tag (job_id, tag, project_id, created_at, updated_at)
    SELECT NEW.id, value, NEW.project_id, NEW.created_at, NEW.updated_at FROM json_each(NEW.tags)
    WHERE type = 'text' AND NEW.deleted_at IS NULL AND NEW.archived_at IS NULL;
END;
CREATE TRIGGER job_tag_update AFTER UPDATE OF updated_at ON job WHEN NEW.tags IS NOT NULL
BEGIN
    UPDATE job_tag SET updated_at = NEW.updated_at WHERE job_id = NEW.id;
END;

-- Lists of builds by time of creation.

CREATE INDEX build_created ON build (project_id, created_at, id) WHERE deleted_at IS NULL AND archived_at IS NULL;
