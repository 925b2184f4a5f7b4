// What became of machines lately, put together from events: how many there were, what they cost, what was taken.

import { keptEvents, newestSeq, seqAt } from "./api.js";
import { now } from "./format.js";

const KINDS = ["instance_launched", "instance_preempted", "instance_replaced", "instance_destroyed"];
const PAGE = 5_000;
const SEQS_MAX = 300_000; // looked through at the most, the newest
const INCIDENTS_MAX = 50_000;
const MACHINES_MAX = 50_000;
const LOST = new Set(["ending", "gone", "stopped", "terminated", "unreachable"]);

export class History {
  constructor() {
    this.since = null; // all that is younger is known
    this._machines = new Map(); // id -> { pool, from, to, cost }
    this._incidents = []; // { pool, at, what: preempted | lost | replaced, node }
    this._told = new Set();
    this._heard = []; // while older events are read
    this._reading = null;
    this._seq = 0;
  }

  watch(told) {
    this._told.add(told);
    return () => this._told.delete(told);
  }

  /** Read all that is younger than `seconds`; told when it is there. */
  async reach(seconds) {
    const at = now() - seconds;
    if (this.since !== null && this.since <= at + 60) return;
    while (this._reading) await this._reading;
    if (this.since !== null && this.since <= at + 60) return;
    this._reading = this._read(at);
    try {
      await this._reading;
    } finally {
      this._reading = null;
    }
    for (const told of this._told) told();
  }

  async _read(at) {
    const newest = await newestSeq();
    let after = Math.max(await seqAt(at, newest), newest - SEQS_MAX);
    const machines = this._machines;
    const incidents = this._incidents;
    this._machines = new Map();
    this._incidents = [];
    try {
      for (;;) {
        const { rows, cursor, more } = await keptEvents(after, PAGE, { kind: KINDS.join(",") });
        for (const envelope of rows) this._take(envelope);
        after = cursor;
        if (!more) break;
      }
    } catch (error) {
      this._machines = machines;
      this._incidents = incidents;
      throw error;
    }
    this.since = at;
    this._seq = after;
    for (const envelope of this._heard) if (envelope.seq > after) this._take(envelope);
    this._heard = [];
  }

  /** Events as they come. */
  heard(envelopes) {
    const fitting = envelopes.filter((one) => KINDS.includes(one.event.kind));
    if (!fitting.length) return;
    if (this._reading) {
      this._heard.push(...fitting);
      return;
    }
    if (this.since === null) return;
    for (const envelope of fitting) {
      if (envelope.seq <= this._seq) continue;
      this._seq = envelope.seq;
      this._take(envelope);
    }
    for (const told of this._told) told();
  }

  _take({ at, pool, event }) {
    switch (event.kind) {
      case "instance_launched":
        this._machines.set(event.instance_id, { pool, from: at, to: null, cost: 0 });
        if (this._machines.size > MACHINES_MAX) this._machines.delete(this._machines.keys().next().value);
        break;
      case "instance_destroyed": {
        const known = this._machines.get(event.instance_id) ?? { pool, from: null };
        this._machines.set(event.instance_id, { ...known, to: at, cost: event.cost_micro_usd / 1e6 });
        break;
      }
      case "instance_preempted": {
        const lost = LOST.has(event.reason) || event.reason.startsWith("unhealthy");
        this._incidents.push({ pool, at, what: lost ? "lost" : "preempted", node: event.instance.node });
        break;
      }
      default:
        this._incidents.push({ pool, at, what: "replaced", node: event.new.node });
    }
    if (this._incidents.length > INCIDENTS_MAX) this._incidents.splice(0, INCIDENTS_MAX / 10);
  }

  /** Counts of incidents in `steps` slices from `start` to `end`, and their sums. */
  incidents(pool, start, end, steps) {
    const found = { preempted: Array(steps).fill(0), lost: Array(steps).fill(0), replaced: Array(steps).fill(0) };
    const sums = { preempted: 0, lost: 0, replaced: 0 };
    for (const one of this._incidents) {
      if (one.pool !== pool || one.at < start || one.at > end) continue;
      found[one.what][Math.min(steps - 1, Math.floor(((one.at - start) / (end - start)) * steps))] += 1;
      sums[one.what] += 1;
    }
    return { ...found, sums };
  }

  /** How many machines there were at each moment, backwards from how many there are. */
  machines(pool, there, start, end, steps) {
    const changes = Array(steps + 1).fill(0);
    const slot = (at) => Math.ceil(((at - start) / (end - start)) * steps);
    for (const one of this._machines.values()) {
      if (one.pool !== pool) continue;
      if (one.from !== null && one.from >= start) changes[Math.min(steps, slot(one.from))] += 1;
      if (one.to !== null && one.to >= start) changes[Math.min(steps, slot(one.to))] -= 1;
    }
    const found = Array(steps + 1);
    let value = there;
    for (let at = steps; at >= 0; at -= 1) {
      found[at] = Math.max(0, value);
      value -= changes[at];
    }
    return found;
  }

  /**
   * Dollars an hour at each moment: what living machines cost since their launch, and what those that ended cost on
   * average. `living` are instances of the API.
   */
  rates(pool, living, start, end, steps) {
    const found = Array(steps + 1).fill(0);
    const step = (end - start) / steps;
    const add = (from, to, rate) => {
      const first = Math.max(0, Math.ceil((from - start) / step));
      const last = Math.min(steps, Math.floor((to - start) / step));
      for (let at = first; at <= last; at += 1) found[at] += rate;
    };
    for (const one of living) {
      if (one.launched_at !== null && one.usd_per_hour) add(one.launched_at, end, one.usd_per_hour);
    }
    for (const one of this._machines.values()) {
      if (one.pool !== pool || one.to === null || one.from === null || !one.cost) continue;
      add(one.from, one.to, (one.cost * 3600) / Math.max(60, one.to - one.from));
    }
    return found;
  }

  /** When the oldest thing known of a pool was; null: nothing. */
  first(pool) {
    let found = null;
    for (const one of this._machines.values()) {
      if (one.pool === pool && one.from !== null && (found === null || one.from < found)) found = one.from;
    }
    for (const one of this._incidents) {
      if (one.pool === pool && (found === null || one.at < found)) found = one.at;
    }
    return found;
  }
}
