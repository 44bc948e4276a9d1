// What clients may send.

import { randomUUID } from "node:crypto";

import Ajv from "ajv";
import addFormats from "ajv-formats";

const OFFERED_ID = /^[A-Za-z0-9_-]{1,64}$/;

export const LARGEST_PER_PAGE = 100;

export const userBody = {
  type: "object",
  required: ["username", "email"],
  additionalProperties: false,
  properties: {
    username: { type: "string", minLength: 3, maxLength: 50, pattern: "^[^\\x00-\\x1f\\x7f]*$" },
    email: { type: "string", maxLength: 255, format: "email" },
  },
};

export const listQuery = {
  type: "object",
  properties: {
    page: { type: "integer", minimum: 1, maximum: 2 ** 46, default: 1 },
    per_page: { type: "integer", minimum: 1, default: 50 },
  },
};

export const userParams = {
  type: "object",
  properties: { id: { type: "integer", minimum: 0, maximum: Number.MAX_SAFE_INTEGER } },
};

const options = { allErrors: true, removeAdditional: false, useDefaults: true };
const bodies = addFormats(new Ajv(options));
const texts = addFormats(new Ajv({ ...options, coerceTypes: true }));

// Bodies say what type a value has; paths and queries are all text.
export function validatorCompiler({ schema, httpPart }) {
  return (httpPart === "body" ? bodies : texts).compile(schema);
}

// Take away white space around what was sent, before it is validated.
export function trim(request, reply, done) {
  const { body } = request;
  if (body !== null && typeof body === "object") {
    if (typeof body.username === "string") body.username = body.username.trim();
    if (typeof body.email === "string") body.email = body.email.trim();
  }
  done();
}

// The request id that the client offers, if it is of our form, or a new one.
export function idOf(raw) {
  const offered = raw.headers["x-request-id"];
  if (offered !== undefined && OFFERED_ID.test(offered)) return offered;
  return randomUUID().replaceAll("-", "");
}
