import createClient from "openapi-fetch";
import type { paths } from "./openapi-typescript";
import { haveSession } from "./session";

const client = createClient<paths>({ baseUrl: process.argv[2] });

void haveSession({
  create: (body) => client.POST("/api/v1/users", { body }),
  list: (query) => client.GET("/api/v1/users", { params: { query } }),
  read: (user_id) => client.GET("/api/v1/users/{user_id}", { params: { path: { user_id } } }),
  change: (user_id, ifMatch, body) =>
    client.PATCH("/api/v1/users/{user_id}", {
      params: { path: { user_id }, header: { "If-Match": ifMatch } },
      body,
    }),
  remove: (user_id) => client.DELETE("/api/v1/users/{user_id}", { params: { path: { user_id } } }),
});
