// An app reads a key that slate_cache keeps right: a plain GET, and JSON.
//   npm install ioredis
//   node read.mjs /path/to/redis.sock slate:project:1
import Redis from 'ioredis';

const [socket, key] = process.argv.slice(2);
const redis = new Redis(socket);
const row = JSON.parse(await redis.get(key));
console.log(row === null ? `${key}: not cached` : `${key}: ${row.name ?? row.path}`);
redis.disconnect();
