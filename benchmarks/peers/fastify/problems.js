// Every error as application/problem+json (RFC 9457).

import { STATUS_CODES } from "node:http";

const URN = "urn:user-service:problem:";
const UNIQUE_VIOLATION = "23505";
const FIELD_OF_CONSTRAINT = { users_username_key: "username", users_email_key: "email" };

export function registerProblems(app) {
  app.setErrorHandler(onError);
  app.setNotFoundHandler((request, reply) => ofStatus(request, reply, 404));
}

function problem(request, reply, { status, title, detail, kind = "about:blank", errors }) {
  const body = { type: kind, title, status, detail, request_id: request.id, errors };
  return reply.code(status).type("application/problem+json").send(JSON.stringify(body));
}

export function userNotFound(request, reply) {
  const title = "User not found";
  return problem(request, reply, {
    status: 404,
    title,
    detail: title,
    kind: `${URN}user-not-found`,
  });
}

function onError(error, request, reply) {
  if (error.validationContext === "params") return userNotFound(request, reply);
  if (error.validation) return invalid(error, request, reply);
  if (error.code === UNIQUE_VIOLATION) return exists(error, request, reply);
  if (error.statusCode === 400) return malformed(request, reply);
  if (error.statusCode === undefined) request.log.error(error, "unexpected error");
  return ofStatus(request, reply, error.statusCode ?? 500);
}

function invalid(error, request, reply) {
  const errors = error.validation.map(({ instancePath, params, message }) => ({
    field: instancePath.slice(1) || params.missingProperty || params.additionalProperty,
    message,
  }));
  if (errors.some(({ field }) => field === undefined)) return malformed(request, reply);
  return problem(request, reply, {
    status: 400,
    title: "Invalid input",
    detail: "The request has invalid fields",
    kind: `${URN}invalid-input`,
    errors,
  });
}

function malformed(request, reply) {
  return problem(request, reply, {
    status: 400,
    title: "Malformed body",
    detail: "The body must be a JSON object",
    kind: `${URN}malformed-body`,
  });
}

function exists(error, request, reply) {
  return problem(request, reply, {
    status: 409,
    title: "User exists",
    detail: "Username or email already exists",
    kind: `${URN}user-exists`,
    errors: [{ field: FIELD_OF_CONSTRAINT[error.constraint], message: "already exists" }],
  });
}

function ofStatus(request, reply, status) {
  const title = STATUS_CODES[status];
  return problem(request, reply, { status, title, detail: title });
}
