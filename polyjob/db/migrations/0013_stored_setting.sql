-- Settings that administrators have changed while the server ran, as JSON by name. Each replaces the default from the
-- server's environment.

CREATE TABLE stored_setting (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
