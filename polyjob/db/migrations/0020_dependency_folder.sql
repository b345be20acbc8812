-- Outputs of earlier jobs that a job reads: the name of the folder in which it finds them; null if it only waits.

ALTER TABLE dependency ADD COLUMN folder TEXT;
