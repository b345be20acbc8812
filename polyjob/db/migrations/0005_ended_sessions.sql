-- Browser sessions that were signed out before their cookies expire: the SHA-256 of each one's id.

CREATE TABLE ended_session (
    digest TEXT NOT NULL PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
