/** The session that each generated client has with the service at the address in `argv[2]`. */

import assert from "node:assert/strict";

type User = { id: number; username: string; email: string };
type Page = { users: Partial<User>[]; pagination: { next_cursor: string | null } };
type Query = { sort?: "-id"; per_page?: number; cursor?: string; id?: number[]; fields?: "id"[] };

/** What a call gives in both libraries: data of a 2xx, or the problem in error. */
type Answer<Data> = Promise<{ data?: Data; error?: unknown; response?: Response }>;

export interface Api {
  create(body: Omit<User, "id">): Answer<User>;
  list(query: Query): Answer<Page>;
  read(id: number): Answer<User>;
  change(id: number, ifMatch: string, body: Partial<User>): Answer<User>;
  remove(id: number): Answer<unknown>;
}

export async function haveSession(api: Api): Promise<void> {
  const created: User[] = [];
  for (const username of ["ada", "grace", "edsger"]) {
    const { data } = await api.create({ username, email: `${username}@example.com` });
    assert(data);
    created.push(data);
  }
  const [ada, grace, edsger] = created as [User, User, User];

  const walked: (string | undefined)[] = [];
  let cursor: string | undefined;
  do {
    const { data } = await api.list({ sort: "-id", per_page: 2, cursor });
    assert(data);
    walked.push(...data.users.map((user) => user.username));
    cursor = data.pagination.next_cursor ?? undefined;
  } while (cursor);
  assert.deepEqual(walked, ["edsger", "grace", "ada"]);

  const several = await api.list({ id: [ada.id, grace.id], fields: ["id"] });
  assert.deepEqual(several.data?.users, [{ id: ada.id }, { id: grace.id }]);

  const etag = (await api.read(ada.id)).response?.headers.get("ETag");
  assert(etag);
  const email = "countess@example.com";
  assert.equal((await api.change(ada.id, etag, { email })).data?.email, email);
  const stale = await api.change(ada.id, etag, { username: "lovelace" });
  assert.equal(stale.response?.status, 412);
  assert.equal((stale.error as { user: User }).user.email, email);

  for (const user of created) {
    assert.equal((await api.remove(user.id)).response?.status, 204);
  }
  const gone = await api.read(edsger.id);
  assert.equal((gone.error as { type: string }).type, "urn:user-service:problem:user-not-found");
}
