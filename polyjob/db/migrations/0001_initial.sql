CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE user (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL UNIQUE,
    email TEXT,
    password_hash TEXT,
    is_admin INTEGER NOT NULL DEFAULT 0,
    is_active INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE token (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
CREATE INDEX token_user ON token (user_id);

CREATE TABLE sign_in_link (
    digest TEXT PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE project (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    user_id INTEGER NOT NULL REFERENCES user (id),
    name TEXT NOT NULL,
    description TEXT,
    readme TEXT,
    tags TEXT,
    is_public INTEGER NOT NULL,
    code_id INTEGER REFERENCES code (id),
    job_count INTEGER NOT NULL DEFAULT 0,
    build_count INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (user_id, name)
) STRICT;

CREATE TABLE code (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    user_id INTEGER NOT NULL REFERENCES user (id),
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    files TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX code_project ON code (project_id, id);

CREATE TABLE build (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    project_id INTEGER NOT NULL REFERENCES project (id),
    user_id INTEGER NOT NULL REFERENCES user (id),
    name TEXT,
    description TEXT,
    tags TEXT,
    config TEXT NOT NULL,
    runner TEXT NOT NULL,
    key TEXT NOT NULL,
    key_parts TEXT NOT NULL,
    code_id INTEGER REFERENCES code (id) ON DELETE SET NULL,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    node TEXT,
    artifact TEXT,
    stop_at INTEGER,
    invalidated_at INTEGER,
    version INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX build_key ON build (project_id, key, id);
CREATE INDEX build_updated ON build (project_id, updated_at, id);
CREATE INDEX build_live ON build (id) WHERE finished_at IS NULL;

CREATE TABLE build_status (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    build_id INTEGER NOT NULL REFERENCES build (id) ON DELETE CASCADE,
    status TEXT NOT NULL,
    message TEXT,
    traceback TEXT,
    details TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX build_status_build ON build_status (build_id, created_at, id);

CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    project_id INTEGER NOT NULL REFERENCES project (id),
    user_id INTEGER NOT NULL REFERENCES user (id),
    name TEXT,
    description TEXT,
    readme TEXT,
    tags TEXT,
    data_refs TEXT,
    ttl INTEGER,
    is_managed INTEGER NOT NULL,
    runner TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    original_id INTEGER REFERENCES job (id) ON DELETE SET NULL,
    cloning_strategy TEXT,
    build_id INTEGER REFERENCES build (id) ON DELETE SET NULL,
    code_id INTEGER REFERENCES code (id) ON DELETE SET NULL,
    node TEXT,
    notes TEXT,
    exit_code INTEGER,
    stop_at INTEGER,
    stop_kind TEXT,
    stop_by_id INTEGER REFERENCES user (id) ON DELETE SET NULL,
    deleted_at INTEGER,
    attempt_at INTEGER,
    handle TEXT,
    log_cursor TEXT,
    running_at INTEGER,
    running_clock TEXT,
    term_clock TEXT,
    exit TEXT,
    version INTEGER NOT NULL DEFAULT 1,
    config TEXT,
    content TEXT
) STRICT;
CREATE UNIQUE INDEX job_name ON job (project_id, name) WHERE name IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX job_updated ON job (project_id, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX job_project ON job (project_id, id) WHERE deleted_at IS NULL;
CREATE INDEX job_queue ON job (id) WHERE status = 'created' AND is_managed = 1;
CREATE INDEX job_claimed ON job (id) WHERE is_managed = 1 AND status IN ('scheduled', 'building', 'running');
CREATE INDEX job_deleted ON job (id) WHERE deleted_at IS NOT NULL;
CREATE INDEX job_build ON job (build_id) WHERE build_id IS NOT NULL;
CREATE INDEX job_original ON job (original_id) WHERE original_id IS NOT NULL;

CREATE TABLE job_status (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    job_id INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    status TEXT NOT NULL,
    message TEXT,
    traceback TEXT,
    details TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX job_status_job ON job_status (job_id, created_at, id);

CREATE TABLE bookmark (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    job_id INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    is_set INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (user_id, job_id)
) STRICT;
CREATE INDEX bookmark_job ON bookmark (job_id);

CREATE TRIGGER job_count_insert AFTER INSERT ON job WHEN NEW.deleted_at IS NULL
BEGIN
    UPDATE project SET job_count = job_count + 1 WHERE id = NEW.project_id;
END;
CREATE TRIGGER job_count_delete AFTER DELETE ON job WHEN OLD.deleted_at IS NULL
BEGIN
    UPDATE project SET job_count = job_count - 1 WHERE id = OLD.project_id;
END;
CREATE TRIGGER job_count_hide AFTER UPDATE OF deleted_at ON job
WHEN (OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL)
BEGIN
    UPDATE project SET job_count = job_count + (NEW.deleted_at IS NULL) - (OLD.deleted_at IS NULL)
    WHERE id = NEW.project_id;
END;
CREATE TRIGGER build_count_insert AFTER INSERT ON build
BEGIN
    UPDATE project SET build_count = build_count + 1 WHERE id = NEW.project_id;
END;
CREATE TRIGGER build_count_delete AFTER DELETE ON build
BEGIN
    UPDATE project SET build_count = build_count - 1 WHERE id = OLD.project_id;
END;
