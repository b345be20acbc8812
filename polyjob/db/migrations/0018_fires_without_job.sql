-- The fires of a schedule that have no job: only these are pruned and counted, while the others stay as long as their
-- job. A schedule that fires each minute has half a million of those in a year.

CREATE INDEX schedule_fire_without_job ON schedule_fire (schedule_id, id) WHERE job_id IS NULL;
