-- How long a query takes, in microseconds, the median of one run for each
-- argument: parsed, planned and run inside the server, as an app's query is.

CREATE FUNCTION median_us(query text, arguments text[]) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
    argument text;
    begun    timestamptz;
    times    float8[];
BEGIN
    FOREACH argument IN ARRAY arguments LOOP
        begun := clock_timestamp();
        EXECUTE query USING argument;
        times := times || extract(epoch FROM clock_timestamp() - begun)::float8;
    END LOOP;
    RETURN (SELECT round((1e6 * percentile_cont(0.5) WITHIN GROUP (ORDER BY t))::numeric)
            FROM unnest(times) t);
END $$;
