// Events as they come. The stream is taken up again where it broke, after a pause that grows.

import { lines, newestSeq } from "./api.js";

const SILENT_MS = 40_000; // the daemon says something every 15 s
const PAUSE_MS = 500;
const PAUSE_MAX_MS = 15_000;
const CATCH_UP_MAX = 5_000; // events that are read again after a break; older ones are in the lists
const BEGIN_WITH = 200;

/**
 * Follows all events.
 * Tells `onEvents(envelopes)`, `onState(word, nextTryAt)`, `onConnected()`: what was read before may be old, and
 * `onMissed(isOther)`: events since the last were forgotten; or, with `isOther`, the journal is another one by now.
 */
export class Live {
  constructor({ onEvents, onState, onConnected, onMissed }) {
    this.seq = null;
    this.state = "connecting";
    this._tell = { onEvents, onState, onConnected, onMissed };
    this._running = null;
    this._wake = null;
  }

  start() {
    if (this._running) return;
    const stop = new AbortController();
    this._running = stop;
    this._run(stop.signal);
  }

  /** Stop, and say why. */
  stop(word) {
    this._running?.abort();
    this._running = null;
    this._say(word);
  }

  /** Do not wait for the next try. */
  retry() {
    this._wake?.();
  }

  _say(word, at = null) {
    this.state = word;
    this._tell.onState(word, at);
  }

  async _run(signal) {
    let failures = 0;
    while (!signal.aborted) {
      this._say(failures ? "reconnecting" : "connecting");
      const began = Date.now();
      try {
        await this._follow(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401 || error.status === 403) {
          this._running = null;
          this._say("denied");
          return;
        }
        if (error.status === 410 && error.cursor !== null && error.cursor !== this.seq) {
          const isOther = error.cursor < this.seq;
          this.seq = error.cursor;
          this._tell.onMissed(isOther);
          continue;
        }
      }
      if (signal.aborted) return;
      failures = Date.now() - began > 10_000 ? 1 : failures + 1;
      const most = Math.min(PAUSE_MAX_MS, PAUSE_MS * 2 ** (failures - 1));
      const pause = most / 2 + (Math.random() * most) / 2;
      this._say("waiting", Date.now() + pause);
      await this._sleep(pause, signal);
    }
  }

  async _follow(outer) {
    const stop = new AbortController();
    const end = () => stop.abort();
    outer.addEventListener("abort", end, { once: true });
    let watch = setTimeout(end, SILENT_MS);
    const beat = () => {
      clearTimeout(watch);
      watch = setTimeout(end, SILENT_MS);
    };
    try {
      let from = `tail=${BEGIN_WITH}`;
      if (this.seq !== null) {
        this.seq = Math.max(this.seq, (await newestSeq(stop.signal)) - CATCH_UP_MAX);
        from = `after=${this.seq}`;
      }
      let connected = false;
      const first = () => {
        beat();
        if (connected) return;
        connected = true;
        this._say("live");
        this._tell.onConnected();
      };
      const path = `/v1/events?follow=true&${from}`;
      for await (const some of lines(path, { signal: stop.signal, beat: first })) {
        const fresh = some.filter((envelope) => this.seq === null || envelope.seq > this.seq);
        if (!fresh.length) continue;
        this.seq = fresh.at(-1).seq;
        this._tell.onEvents(fresh);
      }
    } finally {
      clearTimeout(watch);
      outer.removeEventListener("abort", end);
      stop.abort();
    }
  }

  _sleep(ms, signal) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this._wake = done;
      signal.addEventListener("abort", done, { once: true });
    });
  }
}
