-- Sessions of users can be ended, and users can be deleted although rows refer to them.

ALTER TABLE user ADD COLUMN session_version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE user ADD COLUMN deleted_at INTEGER;

-- Tokens have a scope, optionally a project, and the time of their last use.

ALTER TABLE token ADD COLUMN scope TEXT NOT NULL DEFAULT 'admin';
ALTER TABLE token ADD COLUMN project_id INTEGER REFERENCES project (id) ON DELETE CASCADE;
ALTER TABLE token ADD COLUMN last_used_at INTEGER;

-- The audit trail. It stores names, so that an entry outlives what it refers to.

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at INTEGER NOT NULL,
    user_id INTEGER REFERENCES user (id) ON DELETE SET NULL,
    username TEXT NOT NULL,
    token TEXT,
    address TEXT,
    action TEXT NOT NULL,
    kind TEXT NOT NULL,
    target_id INTEGER,
    target TEXT NOT NULL,
    project_id INTEGER REFERENCES project (id) ON DELETE SET NULL,
    details TEXT
) STRICT;
CREATE INDEX audit_target ON audit (kind, target_id, id);
CREATE INDEX audit_kind ON audit (kind, id);
CREATE INDEX audit_user ON audit (username, id);
CREATE INDEX audit_project ON audit (project_id, id) WHERE project_id IS NOT NULL;

-- The first responses to requests with an Idempotency-Key.

CREATE TABLE idempotency (
    user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_created ON idempotency (created_at);

-- Archived rows, and deleted rows that are not removed yet.

ALTER TABLE project ADD COLUMN archived_at INTEGER;
ALTER TABLE project ADD COLUMN deleted_at INTEGER;
ALTER TABLE project ADD COLUMN jobs_version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE project ADD COLUMN builds_version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE build ADD COLUMN archived_at INTEGER;
ALTER TABLE build ADD COLUMN deleted_at INTEGER;
ALTER TABLE build ADD COLUMN is_asked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE build ADD COLUMN content TEXT;
ALTER TABLE build ADD COLUMN reason TEXT;
ALTER TABLE build ADD COLUMN notes TEXT;
ALTER TABLE job ADD COLUMN archived_at INTEGER;

CREATE INDEX project_updated ON project (user_id, updated_at, id) WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX project_deleted ON project (id) WHERE deleted_at IS NOT NULL;

DROP INDEX job_updated;
DROP INDEX job_project;
CREATE INDEX job_updated ON job (project_id, updated_at, id) WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_created ON job (project_id, created_at, id) WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX job_project ON job (project_id, id);
CREATE INDEX job_archived ON job (project_id, archived_at, id) WHERE deleted_at IS NULL AND archived_at IS NOT NULL;

DROP INDEX build_updated;
CREATE INDEX build_updated ON build (project_id, updated_at, id) WHERE deleted_at IS NULL AND archived_at IS NULL;
CREATE INDEX build_archived ON build (project_id, archived_at, id) WHERE deleted_at IS NULL AND archived_at IS NOT NULL;
CREATE INDEX build_deleted ON build (id) WHERE deleted_at IS NOT NULL;

-- The counts are of the rows that lists show: neither deleted nor archived. The versions are the ETags of the lists.
-- Every visible change of a job or build raises the version of its row, and a trigger then raises that of the list.

DROP TRIGGER job_count_insert;
DROP TRIGGER job_count_delete;
DROP TRIGGER job_count_hide;
DROP TRIGGER build_count_insert;
DROP TRIGGER build_count_delete;

CREATE TRIGGER job_insert AFTER INSERT ON job
BEGIN
    UPDATE project
    SET job_count = job_count + (NEW.deleted_at IS NULL AND NEW.archived_at IS NULL), jobs_version = jobs_version + 1
    WHERE id = NEW.project_id;
END;
CREATE TRIGGER job_delete AFTER DELETE ON job WHEN OLD.deleted_at IS NULL
BEGIN
    UPDATE project
    SET job_count = job_count - (OLD.archived_at IS NULL), jobs_version = jobs_version + 1
    WHERE id = OLD.project_id;
END;
CREATE TRIGGER job_update AFTER UPDATE OF version ON job
BEGIN
    UPDATE project
    SET job_count = job_count
            + (NEW.deleted_at IS NULL AND NEW.archived_at IS NULL)
            - (OLD.deleted_at IS NULL AND OLD.archived_at IS NULL),
        jobs_version = jobs_version + 1
    WHERE id = NEW.project_id;
END;
CREATE TRIGGER build_insert AFTER INSERT ON build
BEGIN
    UPDATE project
    SET build_count = build_count + (NEW.deleted_at IS NULL AND NEW.archived_at IS NULL),
        builds_version = builds_version + 1
    WHERE id = NEW.project_id;
END;
CREATE TRIGGER build_delete AFTER DELETE ON build WHEN OLD.deleted_at IS NULL
BEGIN
    UPDATE project
    SET build_count = build_count - (OLD.archived_at IS NULL), builds_version = builds_version + 1
    WHERE id = OLD.project_id;
END;
CREATE TRIGGER build_update AFTER UPDATE OF version ON build
BEGIN
    UPDATE project
    SET build_count = build_count
            + (NEW.deleted_at IS NULL AND NEW.archived_at IS NULL)
            - (OLD.deleted_at IS NULL AND OLD.archived_at IS NULL),
        builds_version = builds_version + 1
    WHERE id = NEW.project_id;
END;

-- Removing a row removes links to it, which is a visible change of the rows that had them.

CREATE TRIGGER job_unlinked BEFORE DELETE ON job
BEGIN
    UPDATE job SET version = version + 1 WHERE original_id = OLD.id;
END;
CREATE TRIGGER build_unlinked BEFORE DELETE ON build
BEGIN
    UPDATE job SET version = version + 1 WHERE build_id = OLD.id;
END;

-- Bookmarks of projects and builds, in addition to jobs.

CREATE TABLE bookmark_new (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    target_id INTEGER NOT NULL,
    is_set INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (user_id, kind, target_id)
) STRICT;
INSERT INTO bookmark_new (id, user_id, kind, target_id, is_set, created_at, updated_at)
SELECT id, user_id, 'job', job_id, is_set, created_at, updated_at FROM bookmark;
DROP TABLE bookmark;
ALTER TABLE bookmark_new RENAME TO bookmark;
CREATE INDEX bookmark_target ON bookmark (kind, target_id);
CREATE INDEX bookmark_list ON bookmark (user_id, kind, updated_at, id) WHERE is_set = 1;

CREATE TRIGGER bookmark_of_job AFTER DELETE ON job
BEGIN
    DELETE FROM bookmark WHERE kind = 'job' AND target_id = OLD.id;
END;
CREATE TRIGGER bookmark_of_build AFTER DELETE ON build
BEGIN
    DELETE FROM bookmark WHERE kind = 'build' AND target_id = OLD.id;
END;
CREATE TRIGGER bookmark_of_project AFTER DELETE ON project
BEGIN
    DELETE FROM bookmark WHERE kind = 'project' AND target_id = OLD.id;
END;
