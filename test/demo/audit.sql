-- Everything that Redis holds of the three tables, beside the tables.  The
-- variable `keys` names a list of Redis's keys.  Prints how many were compared,
-- and the first few that are wrong.

CREATE TEMP TABLE cached (key text);
COPY cached FROM :'keys' (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02');

CREATE TEMP VIEW truth AS
SELECT slate_cache_key('project', id::text) AS key, to_jsonb(p) AS value FROM projects p
UNION ALL
SELECT slate_cache_key('projects', 'user', user_id::text), jsonb_agg(to_jsonb(p) ORDER BY id)
FROM projects p GROUP BY user_id
UNION ALL
SELECT slate_cache_key('file', id::text), to_jsonb(f) FROM files f
UNION ALL
SELECT slate_cache_key('file', project_id::text, path), to_jsonb(f) FROM files f
UNION ALL
SELECT slate_cache_key('files', 'project', p.id::text),
       coalesce((SELECT jsonb_agg(to_jsonb(f) ORDER BY f.id) FROM files f WHERE f.project_id = p.id), '[]')
FROM projects p
UNION ALL
SELECT slate_cache_key('asset', id::text), to_jsonb(a) FROM assets a
UNION ALL
SELECT slate_cache_key('asset', id::text, 'components'), components FROM assets
UNION ALL
SELECT slate_cache_key('assets', 'project', p.id::text),
       coalesce((SELECT jsonb_agg(to_jsonb(a) ORDER BY a.id) FROM assets a WHERE a.project_id = p.id), '[]')
FROM projects p;

CREATE TEMP TABLE compared AS
SELECT c.key, slate_cache_peek(c.key) AS redis, t.value AS postgres
FROM cached c LEFT JOIN truth t USING (key)
WHERE c.key ~ '^slate:(projects?|files?|assets?):';

SELECT count(*) FROM compared;
SELECT key FROM compared WHERE redis IS DISTINCT FROM postgres ORDER BY key LIMIT 5;
