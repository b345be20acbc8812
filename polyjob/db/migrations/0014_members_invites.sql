-- Users to whom the owner of a project has given a role in it, and links with which new users create their accounts.

CREATE TABLE member (
    user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    project_id INTEGER NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, project_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX member_project ON member (project_id);

CREATE TABLE invite_link (
    digest TEXT NOT NULL PRIMARY KEY,
    creator_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    project_id INTEGER REFERENCES project (id) ON DELETE CASCADE,
    role TEXT,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX invite_link_project ON invite_link (project_id) WHERE project_id IS NOT NULL;
CREATE INDEX invite_link_creator ON invite_link (creator_id);
