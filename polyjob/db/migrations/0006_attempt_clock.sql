-- A time limit counts from the first attempt to start the job, on the boot clock.

ALTER TABLE job RENAME COLUMN running_clock TO attempt_clock;
ALTER TABLE job DROP COLUMN running_at;

-- Statuses that clients reported while polyjob ran the job.

ALTER TABLE job ADD COLUMN reported TEXT;
