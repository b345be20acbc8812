-- Schedules, which submit jobs at certain times, and what became of each of these times. Ids are never used again,
-- because the key of a fire has the id of its schedule.

CREATE TABLE schedule (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    user_id INTEGER NOT NULL REFERENCES user (id),
    cron TEXT,
    timezone TEXT NOT NULL,
    at INTEGER,
    missed TEXT NOT NULL,
    overlap TEXT NOT NULL,
    job TEXT NOT NULL,
    command TEXT,
    next_at INTEGER,
    paused_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX schedule_project ON schedule (project_id, id);
CREATE INDEX schedule_due ON schedule (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE schedule_fire (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    schedule_id INTEGER NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
    key TEXT NOT NULL UNIQUE,
    due_at INTEGER NOT NULL,
    is_manual INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL,
    reason TEXT,
    count INTEGER NOT NULL DEFAULT 1,
    job_id INTEGER REFERENCES job (id) ON DELETE SET NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX schedule_fire_schedule ON schedule_fire (schedule_id, id);
CREATE INDEX schedule_fire_job ON schedule_fire (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX schedule_fire_waiting ON schedule_fire (schedule_id, id) WHERE outcome = 'waiting';
