// /api/v1/users: the routes, with schemas for what comes in and what goes out.

import { LARGEST_PER_PAGE, listQuery, trim, userBody, userParams } from "./requests.js";
import { userNotFound } from "./problems.js";

const user = {
  type: "object",
  properties: {
    id: { type: "integer" },
    username: { type: "string" },
    email: { type: "string" },
    created_at: { type: "string" },
    updated_at: { type: "string" },
  },
};
const pagination = {
  type: "object",
  properties: {
    page: { type: "integer" },
    per_page: { type: "integer" },
    total: { type: "integer" },
    pages: { type: "integer" },
  },
};
const page = {
  type: "object",
  properties: { users: { type: "array", items: user }, pagination },
};

export function registerUsers(app, users, pages) {
  registerList(app, users, pages);
  registerReading(app, users);
  registerWriting(app, users, pages);
}

function registerList(app, users, pages) {
  const schema = { querystring: listQuery, response: { 200: page } };
  app.get("/api/v1/users", { schema }, async (request, reply) => {
    const { page: number } = request.query;
    const perPage = Math.min(request.query.per_page, LARGEST_PER_PAGE);
    const name = `${number}:${perPage}`;
    const { generation, body } = await pages.lookUp(name);
    reply.type("application/json");
    if (body !== undefined) return reply.header("x-cache", "HIT").send(body);
    const { users: listed, total } = await users.page(number, perPage);
    const text = reply.serialize({
      users: listed,
      pagination: { page: number, per_page: perPage, total, pages: Math.ceil(total / perPage) },
    });
    await pages.keep(name, generation, text);
    return reply.header("x-cache", "MISS").send(text);
  });
}

function registerReading(app, users) {
  const schema = { params: userParams, response: { 200: user } };
  app.get("/api/v1/users/:id", { schema }, async (request, reply) => {
    const found = await users.get(request.params.id);
    return found ?? userNotFound(request, reply);
  });
}

function registerWriting(app, users, pages) {
  const created = { body: userBody, response: { 201: user } };
  app.post("/api/v1/users", { schema: created, preValidation: trim }, async (request, reply) => {
    const stored = await users.create(request.body);
    await pages.invalidate();
    return reply.code(201).header("location", `/api/v1/users/${stored.id}`).send(stored);
  });

  const replaced = { params: userParams, body: userBody, response: { 200: user } };
  app.put(
    "/api/v1/users/:id",
    { schema: replaced, preValidation: trim },
    async (request, reply) => {
      const stored = await users.replace(request.params.id, request.body);
      if (stored === undefined) return userNotFound(request, reply);
      await pages.invalidate();
      return stored;
    },
  );

  app.delete("/api/v1/users/:id", { schema: { params: userParams } }, async (request, reply) => {
    if (!(await users.delete(request.params.id))) return userNotFound(request, reply);
    await pages.invalidate();
    return reply.code(204).send();
  });
}
