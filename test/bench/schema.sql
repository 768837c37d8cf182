-- Ten thousand rows of some 300 bytes as JSON, in one table a candidate.  Their
-- pages have room for the next versions of a row.
CREATE FUNCTION make_rows(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE %I (
        id         int PRIMARY KEY,
        project_id int NOT NULL,
        path       text NOT NULL,
        content    text NOT NULL,
        n          bigint NOT NULL DEFAULT 0) WITH (fillfactor = 40)', name);
    EXECUTE format('INSERT INTO %I
        SELECT id, id %% 100, ''src/file'' || id || ''.c'', repeat(md5(id::text), 7)
        FROM generate_series(1, 10000) id', name);
END $$;
