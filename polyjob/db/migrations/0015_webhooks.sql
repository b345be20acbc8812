-- Webhooks: of a job if `job_id` is set, else of a project, or without a project that of the server. There are no
-- foreign keys to jobs and projects: the end of a job is delivered although the job was deleted meanwhile.

CREATE TABLE webhook (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER,
    job_id INTEGER,
    user_id INTEGER REFERENCES user (id) ON DELETE SET NULL,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    secret TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX webhook_target ON webhook (job_id, project_id, id);

-- The outbox: one row for each event and webhook. `next_try_at` is NULL once the delivery has succeeded or was given
-- up.

CREATE TABLE delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    webhook_id INTEGER NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    job_id INTEGER,
    event TEXT NOT NULL,
    job TEXT,
    origin TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try_at INTEGER,
    tried_at INTEGER,
    delivered_at INTEGER,
    status_code INTEGER,
    response TEXT,
    error TEXT
) STRICT;
CREATE INDEX delivery_webhook ON delivery (webhook_id, id);
CREATE INDEX delivery_job ON delivery (job_id, id) WHERE job_id IS NOT NULL;
CREATE INDEX delivery_pending ON delivery (next_try_at, id) WHERE next_try_at IS NOT NULL;
CREATE INDEX delivery_created ON delivery (created_at);
