// What surrounds every request: its id, its line in the log, its metrics.

import cluster from "node:cluster";
import { once } from "node:events";

import pino from "pino";
import { AggregatorRegistry, Histogram, register } from "prom-client";

const seconds = new Histogram({
  name: "http_request_duration_seconds",
  help: "Time of requests",
  labelNames: ["method", "route", "status"],
});
const allProcesses = new AggregatorRegistry();

// Lines are gathered and written when there are 4 KiB of them, or half a second has gone by.
export function createLog() {
  return pino(pino.destination({ fd: 1, sync: false, minLength: 4096, periodicFlush: 500 }));
}

// Number, time, count and log each request of `app`, and serve its /metrics.
export function observe(app) {
  const { log } = app;
  app.addHook("onRequest", (request, reply, done) => {
    reply.header("x-request-id", request.id);
    done();
  });
  app.addHook("onResponse", (request, reply, done) => {
    const { method } = request;
    const route = request.routeOptions.url ?? "unmatched";
    const status = reply.statusCode;
    const milliseconds = reply.elapsedTime;
    seconds.observe({ method, route, status }, milliseconds / 1000);
    log.info({ request_id: request.id, method, route, status, duration_ms: milliseconds });
    done();
  });
  app.get("/metrics", async (request, reply) =>
    reply.type(register.contentType).send(await metrics()),
  );
}

// The metrics of this process, or of all where there are several: the first process adds them up.
async function metrics() {
  if (!cluster.isWorker) return register.metrics();
  process.send("metrics");
  const [answer] = await once(process, "message:metrics");
  return answer;
}

export function answerWithAllMetrics() {
  cluster.on("message", async (worker, message) => {
    if (message === "metrics") worker.send({ metrics: await allProcesses.clusterMetrics() });
  });
}

if (cluster.isWorker) {
  process.on("message", (message) => {
    if (message.metrics !== undefined) process.emit("message:metrics", message.metrics);
  });
}
