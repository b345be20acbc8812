-- Browser sessions that were signed out before their cookies expired, by the SHA-256 of the session id.

CREATE TABLE ended_session (
    digest TEXT NOT NULL PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
