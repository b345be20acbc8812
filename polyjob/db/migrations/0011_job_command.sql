-- The beginning of each job's command, which lists show without reading the config. Config and content can be large, so
-- they become the last columns again: SQLite reads a row from its first column to the last one that a statement needs.

ALTER TABLE job RENAME COLUMN config TO old_config;
ALTER TABLE job RENAME COLUMN content TO old_content;
ALTER TABLE job ADD COLUMN command TEXT;
ALTER TABLE job ADD COLUMN config TEXT;
ALTER TABLE job ADD COLUMN content TEXT;
UPDATE job SET
    command = CASE WHEN json_valid(old_config) THEN
        substr(coalesce(json_extract(old_config, '$.run.cmd[0]'), json_extract(old_config, '$.run.cmd')), 1, 200)
    END,
    config = old_config,
    content = old_content;
ALTER TABLE job DROP COLUMN old_config;
ALTER TABLE job DROP COLUMN old_content;
