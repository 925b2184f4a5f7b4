// What is known, and what must be read again because something happened to it.

import { get, list, query } from "./api.js";

const APART_MS = 1_000; // between two readings of the same thing
const LOAD = 4; // and so many times as long as the reading itself took
const FAILED_MS = 3_000; // and after a failure
const TASK_KINDS = new Set(["task_requested", "task_queued", "task_started", "task_attempt_ended", "task_completed", "task_stop_requested"]);
const QUIET_KINDS = new Set(["bootstrap_phase", "bootstrap_command", "webhook_failing", "webhook_recovered"]);

/** One thing that is read from the API: never twice at once, and not too often. */
export class Source {
  constructor(read, { apart = APART_MS } = {}) {
    this.value = undefined;
    this.error = null;
    this._read = read;
    this._apart = apart;
    this._watchers = new Set();
    this._dirty = true;
    this._timer = 0;
    this._reading = false;
    this._notBefore = 0;
  }

  /** Call `told(source)` now, if there is something, and after each reading; the answer ends it. */
  watch(told) {
    this._watchers.add(told);
    if (this.value !== undefined || this.error) told(this);
    if (this._dirty) this._schedule();
    return () => {
      this._watchers.delete(told);
    };
  }

  /** It may be different by now. */
  touch() {
    this._dirty = true;
    this._schedule();
  }

  _schedule() {
    if (this._timer || this._reading || !this._watchers.size || document.hidden) return;
    this._timer = setTimeout(() => this._run(), Math.max(0, this._notBefore - Date.now()));
  }

  async _run() {
    this._timer = 0;
    if (!this._watchers.size || document.hidden) return;
    this._reading = true;
    this._dirty = false;
    const began = Date.now();
    try {
      this.value = await this._read();
      this.error = null;
    } catch (error) {
      this.error = error;
      this._dirty ||= error.status === 0 || error.status === 429 || error.status >= 500; // it may pass
    }
    this._reading = false;
    const pause = this.error ? Math.max(FAILED_MS, 1000 * Number(this.error.retryAfter ?? 0)) : 0;
    this._notBefore = Date.now() + Math.max(this._apart, LOAD * (Date.now() - began), pause);
    for (const told of [...this._watchers]) told(this);
    if (this._dirty) this._schedule();
  }
}

/** All sources, by what they show. */
export class Store {
  constructor() {
    this._sources = new Map();
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.touchAll();
    });
  }

  /** A source by a key `what` or `what:pool`, made when it is first asked for. */
  source(key, read, options) {
    let found = this._sources.get(key);
    if (!found) {
      if (this._sources.size > 200) this._forget();
      found = new Source(read, options);
      this._sources.set(key, found);
    }
    return found;
  }

  _forget() {
    for (const [key, source] of this._sources) if (!source._watchers.size) this._sources.delete(key);
  }

  pools() {
    return this.source("pools", () => list("/v1/pools"));
  }

  pool(name) {
    return this.source(`pool:${name}`, () => get(`/v1/pools/${encodeURIComponent(name)}`));
  }

  cost() {
    return this.source("cost", () => get("/v1/cost"), { apart: 2_000 });
  }

  costOf(name) {
    return this.source(`cost:${name}`, () => get(`/v1/cost/${encodeURIComponent(name)}`), { apart: 5_000 });
  }

  nodes(name) {
    return this.source(`nodes:${name}`, async () => {
      const path = (what) => query(`/v1/${what}`, { pool: name });
      const [nodes, instances] = await Promise.all([list(path("nodes")), list(path("instances"))]);
      return { nodes, instances };
    });
  }

  explain(name) {
    return this.source(`explain:${name}`, () => get(`/v1/explain/${encodeURIComponent(name)}`), { apart: 3_000 });
  }

  /** Take in what happened: touch what it may have changed. */
  heard(envelopes) {
    const pools = new Map();
    for (const { pool, event } of envelopes) {
      if (QUIET_KINDS.has(event.kind)) continue;
      const known = pools.get(pool) ?? { tasks: false, nodes: false };
      known[TASK_KINDS.has(event.kind) ? "tasks" : "nodes"] = true;
      pools.set(pool, known);
    }
    if (!pools.size) return;
    let nodes = false;
    for (const [pool, what] of pools) {
      nodes ||= what.nodes;
      for (const kind of what.nodes ? ["pool", "nodes", "explain", "cost"] : ["pool"]) {
        this._sources.get(`${kind}:${pool}`)?.touch();
      }
      for (const [key, source] of this._sources) {
        if (what.tasks && key.startsWith("tasks:") && (key.startsWith(`tasks:${pool}:`) || key.startsWith("tasks::"))) source.touch();
      }
    }
    this._sources.get("pools")?.touch();
    if (nodes) this._sources.get("cost")?.touch();
  }

  /** Everything may be different: after a break. */
  touchAll() {
    for (const source of this._sources.values()) source.touch();
  }

  /** Another token sees other things. */
  clear() {
    for (const source of this._sources.values()) {
      source.value = undefined;
      source.error = null;
      source.touch();
    }
  }
}
