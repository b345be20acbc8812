-- Retries of failed jobs, and jobs that are held: they have the status `created` but are not in the queue of their
-- runner. Config and content stay the last columns; see 0011.

ALTER TABLE job RENAME COLUMN config TO old_config;
ALTER TABLE job RENAME COLUMN content TO old_content;
ALTER TABLE job ADD COLUMN retry_number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN first_attempt_id INTEGER REFERENCES job (id) ON DELETE SET NULL;
ALTER TABLE job ADD COLUMN is_held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN wait_until INTEGER;
ALTER TABLE job ADD COLUMN config TEXT;
ALTER TABLE job ADD COLUMN content TEXT;
UPDATE job SET config = old_config, content = old_content;
ALTER TABLE job DROP COLUMN old_config;
ALTER TABLE job DROP COLUMN old_content;

CREATE INDEX job_first_attempt ON job (first_attempt_id, id) WHERE first_attempt_id IS NOT NULL;
CREATE INDEX job_delayed ON job (wait_until) WHERE wait_until IS NOT NULL AND is_held = 1 AND status = 'created';

-- Queues without the jobs that are held.

DROP INDEX job_queue;
CREATE INDEX job_queue ON job (runner, id) WHERE status = 'created' AND is_managed = 1 AND is_held = 0;

DROP TRIGGER queue_insert;
DROP TRIGGER queue_delete;
DROP TRIGGER queue_leave;
DROP TRIGGER queue_join;
CREATE TRIGGER queue_insert AFTER INSERT ON job
WHEN NEW.status = 'created' AND NEW.is_managed = 1 AND NEW.is_held = 0
BEGIN
    INSERT INTO queue (runner, length) VALUES (NEW.runner, 1)
    ON CONFLICT (runner) DO UPDATE SET length = length + 1;
END;
CREATE TRIGGER queue_delete AFTER DELETE ON job
WHEN OLD.status = 'created' AND OLD.is_managed = 1 AND OLD.is_held = 0
BEGIN
    UPDATE queue SET length = length - 1 WHERE runner = OLD.runner;
END;
CREATE TRIGGER queue_leave AFTER UPDATE OF status, is_managed, is_held, runner ON job
WHEN OLD.status = 'created' AND OLD.is_managed = 1 AND OLD.is_held = 0
    AND NOT (NEW.status = 'created' AND NEW.is_managed = 1 AND NEW.is_held = 0 AND NEW.runner = OLD.runner)
BEGIN
    UPDATE queue SET length = length - 1 WHERE runner = OLD.runner;
END;
CREATE TRIGGER queue_join AFTER UPDATE OF status, is_managed, is_held, runner ON job
WHEN NEW.status = 'created' AND NEW.is_managed = 1 AND NEW.is_held = 0
    AND NOT (OLD.status = 'created' AND OLD.is_managed = 1 AND OLD.is_held = 0 AND NEW.runner = OLD.runner)
BEGIN
    INSERT INTO queue (runner, length) VALUES (NEW.runner, 1)
    ON CONFLICT (runner) DO UPDATE SET length = length + 1;
END;

-- Removing the first attempt removes the links of its retries to it. 0002 does the same for the links to the original.

CREATE TRIGGER job_first_attempt_unlinked BEFORE DELETE ON job
BEGIN
    UPDATE job SET version = version + 1 WHERE first_attempt_id = OLD.id;
END;
