// The tasks of a client with fetch. Usage: node users.mjs [URL]

const service = process.argv[2] ?? "http://localhost:5000";
const users = `${service}/api/v1/users`;
const json = { "Content-Type": "application/json" };

/** Return the body of a success; throw any other as the problem that it is. */
async function bodyOf(response) {
  const body = await response.json();
  if (response.ok) return body;
  throw Object.assign(new Error(body.detail), body);
}

/** Create a user once, however often the request is sent. */
async function create(user) {
  const headers = { ...json, "Idempotency-Key": `"${crypto.randomUUID()}"` };
  for (const seconds of [1, 2, 4, 8]) {
    // After a lost connection, the user may exist: the key makes it safe to send the request again.
    const response = await fetch(users, { method: "POST", headers, body: JSON.stringify(user) }).catch(() => null);
    const pause = response ? response.headers.get("Retry-After") : seconds;
    if (!pause) return bodyOf(response);
    await new Promise((resume) => setTimeout(resume, pause * 1000));
  }
  throw new Error("the service does not answer");
}

/** Yield all users, page by page. */
async function* walk() {
  const query = new URLSearchParams({ per_page: 100 });
  for (;;) {
    const page = await bodyOf(await fetch(`${users}?${query}`));
    yield* page.users;
    if (!page.pagination.next_cursor) return;
    query.set("cursor", page.pagination.next_cursor);
  }
}

/** Change the user as it was read; if another client changes it meanwhile, begin again. */
async function change(url, members) {
  for (;;) {
    const etag = (await fetch(url)).headers.get("ETag");
    const headers = { ...json, "If-Match": etag };
    const response = await fetch(url, { method: "PATCH", headers, body: JSON.stringify(members) });
    if (response.status !== 412) return bodyOf(response);
  }
}

const ada = await create({ username: "ada", email: "ada@example.com" });
console.log("created", ada.id);
let number = 0;
for await (const _ of walk()) number += 1;
console.log("walked", number);
const changed = await change(`${users}/${ada.id}`, { email: "countess@example.com" });
console.log("changed", changed.id);
