import { client } from "./openapi-ts/client.gen";
import * as users from "./openapi-ts/sdk.gen";
import { haveSession } from "./session";

client.setConfig({ baseUrl: process.argv[2] as `http://${string}` });

void haveSession({
  create: (body) => users.createUser({ body }),
  list: (query) => users.listUsers({ query }),
  read: (user_id) => users.getUser({ path: { user_id } }),
  change: (user_id, ifMatch, body) =>
    users.changeUser({ path: { user_id }, headers: { "If-Match": ifMatch }, body }),
  remove: (user_id) => users.deleteUser({ path: { user_id } }),
});
