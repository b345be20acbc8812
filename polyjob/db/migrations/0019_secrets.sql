-- Secrets of jobs: of a project, or without a project those of the server. `value` is encrypted.

CREATE TABLE secret (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER REFERENCES project (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    user_id INTEGER REFERENCES user (id) ON DELETE SET NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX secret_name ON secret (name, ifnull(project_id, 0));
CREATE INDEX secret_project ON secret (project_id);
CREATE INDEX secret_user ON secret (user_id);
