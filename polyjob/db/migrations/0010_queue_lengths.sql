-- The number of queued jobs of each runner. With it, the position of a new job is found without counting the queue.
-- Triggers maintain it.

CREATE TABLE queue (
    runner TEXT NOT NULL PRIMARY KEY,
    length INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO queue (runner, length)
SELECT runner, COUNT(*) FROM job WHERE status = 'created' AND is_managed = 1 GROUP BY runner;

CREATE TRIGGER queue_insert AFTER INSERT ON job WHEN NEW.status = 'created' AND NEW.is_managed = 1
BEGIN
    INSERT INTO queue (runner, length) VALUES (NEW.runner, 1)
    ON CONFLICT (runner) DO UPDATE SET length = length + 1;
END;
CREATE TRIGGER queue_delete AFTER DELETE ON job WHEN OLD.status = 'created' AND OLD.is_managed = 1
BEGIN
    UPDATE queue SET length = length - 1 WHERE runner = OLD.runner;
END;
CREATE TRIGGER queue_leave AFTER UPDATE OF status, is_managed, runner ON job
WHEN OLD.status = 'created' AND OLD.is_managed = 1
    AND NOT (NEW.status = 'created' AND NEW.is_managed = 1 AND NEW.runner = OLD.runner)
BEGIN
    UPDATE queue SET length = length - 1 WHERE runner = OLD.runner;
END;
CREATE TRIGGER queue_join AFTER UPDATE OF status, is_managed, runner ON job
WHEN NEW.status = 'created' AND NEW.is_managed = 1
    AND NOT (OLD.status = 'created' AND OLD.is_managed = 1 AND NEW.runner = OLD.runner)
BEGIN
    INSERT INTO queue (runner, length) VALUES (NEW.runner, 1)
    ON CONFLICT (runner) DO UPDATE SET length = length + 1;
END;
