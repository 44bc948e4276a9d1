// The page cache in Redis. A write replaces the generation: older pages are read no more.

import { randomUUID } from "node:crypto";

import { Redis } from "ioredis";

const PREFIX = "fastify:page:";
const GENERATION_KEY = `${PREFIX}generation`;
const GENERATION_LENGTH = 36;
const TTL = 60;
const NOTHING = {};

export function openRedis(url) {
  const redis = new Redis(url, { enableAutoPipelining: true, maxRetriesPerRequest: 1 });
  redis.on("error", () => {}); // it reconnects by itself, and requests do without it meanwhile
  return redis;
}

// Bodies of pages by name, each kept behind the generation that it was read in.
export class Pages {
  #redis;

  constructor(redis) {
    this.#redis = redis;
  }

  // Generation and body in one round trip; without Redis there is neither.
  async lookUp(name) {
    try {
      let [generation, entry] = await this.#redis.mgetBuffer(GENERATION_KEY, PREFIX + name);
      generation ??= await this.#begin();
      if (entry === null || !entry.subarray(0, GENERATION_LENGTH).equals(generation)) {
        return { generation };
      }
      return { generation, body: entry.subarray(GENERATION_LENGTH) };
    } catch {
      return NOTHING;
    }
  }

  // Keep a body; if its generation is over by now, nobody will read it.
  async keep(name, generation, body) {
    if (generation === undefined) return;
    const entry = Buffer.concat([generation, Buffer.from(body)]);
    await this.#redis.set(PREFIX + name, entry, "EX", TTL).catch(() => {});
  }

  // Put every page out of date.
  async invalidate() {
    await this.#redis.set(GENERATION_KEY, randomUUID()).catch(() => {});
  }

  async #begin() {
    const next = randomUUID();
    const current = await this.#redis.setBuffer(GENERATION_KEY, next, "NX", "GET");
    return current ?? Buffer.from(next);
  }
}
