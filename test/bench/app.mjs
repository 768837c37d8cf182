// An app in JavaScript that keeps the cache itself, as they are written: a pool of connections
// to PostgreSQL (where its environment says), one connection to Redis for all; an UPDATE that
// commits by itself and returns the row, then a SET of its JSON, again and again.  As app.c, it
// is stale whenever two of them race.
//
//   node app.mjs ADDRESS TABLE CLIENTS
//
// ADDRESS is the path of a Unix socket, or host:port.
import Redis from 'ioredis';
import pg from 'pg';

// bigint, which pg would make a string of.
pg.types.setTypeParser(20, Number);

const [address, table, clients] = process.argv.slice(2);
const [host, port] = address.split(':');
const redis = address.startsWith('/') ? new Redis(address) : new Redis(Number(port), host);
const pool = new pg.Pool({ max: Number(clients) });

async function writeRow(postgres) {
    const id = 1 + Math.floor(Math.random() * 10000);
    const { rows: [row] } = await postgres.query({
        name: 'update',
        text: `UPDATE ${table} SET n = n + 1 WHERE id = $1 RETURNING *`,
        values: [id],
    });
    await redis.set(`${table}:${id}`, JSON.stringify(row), 'EX', 3600);
}

async function writeRows() {
    const postgres = await pool.connect();
    for (;;) await writeRow(postgres);
}

for (let i = 0; i < Number(clients); i++) writeRows();
