-- Folders of this machine become projects, text in UTF-8 becomes files, and
-- anything else assets.  The variable `found` names a list in COPY's format:
-- number, user, project, folder, path below the folder.

CREATE TEMP TABLE found (
    number  int,
    user_id bigint,
    project text,
    folder  text,
    path    text
);
COPY found FROM :'found';

CREATE FUNCTION pg_temp.as_text(data bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF position('\x00'::bytea IN data) > 0 THEN
        RETURN NULL;
    END IF;
    RETURN convert_from(data, 'UTF8');
EXCEPTION
    WHEN character_not_in_repertoire OR untranslatable_character THEN
        RETURN NULL;
END $$;

CREATE TEMP TABLE loaded AS
SELECT number, user_id, project, path, data, pg_temp.as_text(data) AS content
FROM found, pg_read_binary_file(folder || '/' || path, 0, 1000000, true) AS data
WHERE data IS NOT NULL;

INSERT INTO projects (user_id, name)
SELECT user_id, project FROM loaded
GROUP BY number, user_id, project ORDER BY number;

INSERT INTO files (project_id, path, content)
SELECT p.id, l.path, l.content
FROM loaded l JOIN projects p ON p.name = l.project
WHERE l.content IS NOT NULL
ORDER BY p.id, l.path;

INSERT INTO assets (project_id, path, components)
SELECT p.id, l.path,
       jsonb_build_object('size', length(l.data),
                          'sha256', encode(sha256(l.data), 'hex'),
                          'begins', encode(substr(l.data, 1, 12), 'base64'))
FROM loaded l JOIN projects p ON p.name = l.project
WHERE l.content IS NULL
ORDER BY p.id, l.path;

DROP TABLE found, loaded;
ANALYZE projects, files, assets;
