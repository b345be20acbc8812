-- Each runner has a queue of its own.

DROP INDEX job_queue;
CREATE INDEX job_queue ON job (runner, id) WHERE status = 'created' AND is_managed = 1;
