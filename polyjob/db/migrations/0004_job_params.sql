-- Params that a job recorded itself, as JSON; NULL means those of its config.

ALTER TABLE job ADD COLUMN params TEXT;

-- Data sets by name, each with its version. They were a list of names before.

UPDATE job SET data_refs = (SELECT json_group_object(value, NULL) FROM json_each(job.data_refs))
WHERE data_refs IS NOT NULL AND json_type(data_refs) = 'array';
