// All SQL on users. A statement with a name is prepared once a connection.

import { domainToASCII } from "node:url";

import pg from "pg";

const POOL_SIZE = 10;
const { INT8, TIMESTAMPTZ } = pg.types.builtins;

pg.types.setTypeParser(INT8, Number);
// As text, since a Date would lose the microseconds: "2026-11-22 19:41:06.123456+00", in UTC.
pg.types.setTypeParser(TIMESTAMPTZ, (text) => `${text.slice(0, 10)}T${text.slice(11)}:00`);

// Page and total in one statement, so of the same moment; beyond the last page the total is alone.
const PAGE = `
  SELECT counted.total, listed.*
  FROM (SELECT sum(number)::bigint AS total FROM users_count) AS counted
  LEFT JOIN (
    SELECT id, username, email, created_at, updated_at FROM users ORDER BY id LIMIT $1 OFFSET $2
  ) AS listed ON true
  ORDER BY listed.id`;
const GET = "SELECT id, username, email, created_at, updated_at FROM users WHERE id = $1";
const CREATE = `
  INSERT INTO users (username, username_canonical, email, email_canonical)
  VALUES ($1, $2, $3, $4)
  RETURNING id, username, email, created_at, updated_at`;
const REPLACE = `
  UPDATE users
  SET username = $1, username_canonical = $2, email = $3, email_canonical = $4, updated_at = now()
  WHERE id = $5
  RETURNING id, username, email, created_at, updated_at`;
const DELETE = "DELETE FROM users WHERE id = $1";

export async function openPool(connectionString) {
  const pool = new pg.Pool({
    connectionString,
    min: POOL_SIZE,
    max: POOL_SIZE,
    idleTimeoutMillis: 0,
    options: "-c timezone=UTC",
  });
  const clients = await Promise.all(Array.from({ length: POOL_SIZE }, () => pool.connect()));
  for (const client of clients) client.release();
  return pool;
}

// The users in PostgreSQL. Every write is one statement, and so its own transaction.
export class Users {
  #pool;

  constructor(pool) {
    this.#pool = pool;
  }

  async page(page, perPage) {
    const values = [perPage, (page - 1) * perPage];
    const { rows } = await this.#pool.query({ name: "page", text: PAGE, values });
    return { users: rows[0].id === null ? [] : rows, total: rows[0].total };
  }

  async get(id) {
    return this.#one({ name: "get", text: GET, values: [id] });
  }

  async create(user) {
    return this.#one({ name: "create", text: CREATE, values: columns(user) });
  }

  async replace(id, user) {
    return this.#one({ name: "replace", text: REPLACE, values: [...columns(user), id] });
  }

  async delete(id) {
    const query = { name: "delete", text: DELETE, values: [id] };
    return (await this.#pool.query(query)).rowCount > 0;
  }

  async #one(query) {
    return (await this.#pool.query(query)).rows[0];
  }
}

function columns({ username, email }) {
  return [username, canonicalUsername(username), email, canonicalEmail(email)];
}

// The form in which usernames are compared; JavaScript has lower case but no case folding.
function canonicalUsername(username) {
  return username.normalize("NFKC").toLowerCase().normalize("NFKC");
}

function canonicalEmail(email) {
  const at = email.lastIndexOf("@");
  return `${canonicalUsername(email.slice(0, at))}@${domainToASCII(email.slice(at + 1))}`;
}
