// The user service on Fastify, composed. `node app.js` serves it on PORT, with WEB_CONCURRENCY
// processes that share the port.

import cluster from "node:cluster";

import Fastify, { LogController } from "fastify";

import { openPool, Users } from "./database.js";
import { answerWithAllMetrics, createLog, observe } from "./observed.js";
import { openRedis, Pages } from "./pages.js";
import { registerProblems } from "./problems.js";
import { idOf, validatorCompiler } from "./requests.js";
import { registerUsers } from "./users.js";

const processes = Number(process.env.WEB_CONCURRENCY ?? 1);

async function serve() {
  const app = Fastify({
    loggerInstance: createLog(),
    logController: new LogController({ disableRequestLogging: true }), // two lines; ours is one
    genReqId: idOf,
    keepAliveTimeout: 75_000,
  });
  const pool = await openPool(process.env.DATABASE_URL);
  const redis = openRedis(process.env.REDIS_URL);
  app.setValidatorCompiler(validatorCompiler);
  observe(app);
  registerProblems(app);
  registerUsers(app, new Users(pool), new Pages(redis));
  app.get("/health/live", (request, reply) => reply.send({ status: "alive" }));
  app.addHook("onClose", async () => {
    await pool.end();
    redis.disconnect();
  });
  process.once("SIGTERM", () => app.close().then(() => process.exit(0)));
  await app.listen({ port: Number(process.env.PORT), host: "127.0.0.1" });
}

if (processes > 1 && cluster.isPrimary) {
  answerWithAllMetrics();
  for (let number = 0; number < processes; number += 1) cluster.fork();
} else {
  await serve();
}
