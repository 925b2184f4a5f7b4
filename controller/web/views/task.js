// One task: how it is, what it writes, why, and what it left behind.

import { stopTask } from "../actions.js";
import { ask, events, get, lines, query } from "../api.js";
import { announce, fill, h, link, text } from "../dom.js";
import { count, lasting, usd, words } from "../format.js";
import { age, nodeHref, poolHref, problem, section, shownClock, taskChip } from "../parts.js";
import { oneWhy } from "./why.js";

const TAIL = 1_000;
const LINES_MAX = 5_000;
const COMMAND_MAX = 2_000; // letters of it that are shown
// Sequences that colour a terminal mean nothing here.
const ESCAPES = /\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)|\u001b[@-_]/g;

/** The end of what a task wrote, and what it writes. */
class Log {
  constructor(id) {
    this._id = id;
    this._stop = new AbortController();
    this._follow = true;
    this.lines = h("ol", { class: "log", tabindex: "0", "aria-label": "Output", onscroll: () => this._scrolled() });
    this.state = h("span", { class: "muted" });
    this.key = h("p", { class: "logkey muted", hidden: true }, h("span", { "aria-hidden": "true" }), "written to stderr");
    this.earlier = h("p", { class: "muted earlier", hidden: true }, "Only the end is shown; ", h("code", {}, `everpool logs ${id}`), " has all.");
    this._seen = new Set();
    this.end = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => this._toEnd() }, "To the end");
    this._run();
  }

  stop() {
    this._stop.abort();
  }

  async _run() {
    const path = `/v1/tasks/${encodeURIComponent(this._id)}/log`;
    let cursor = null;
    while (!this._stop.signal.aborted) {
      try {
        text(this.state, "live");
        const wanted = cursor ? { after: cursor } : { tail: TAIL };
        for await (const some of lines(query(path, { follow: true, ...wanted }), { signal: this._stop.signal })) {
          cursor = some.findLast((line) => line.cursor)?.cursor ?? cursor;
          this._add(some);
        }
        const task = await get(`/v1/tasks/${encodeURIComponent(this._id)}`, { signal: this._stop.signal });
        if (task.status === "stopped") {
          text(this.state, this.lines.children.length ? "ended" : "");
          if (!this.lines.children.length) fill(this.lines, h("li", { class: "empty" }, "It wrote nothing."));
          return;
        }
      } catch (error) {
        if (this._stop.signal.aborted) return;
        text(this.state, `${error.message}: tried again`);
        if (error.status === 404) return;
      }
      await new Promise((resolve) => setTimeout(resolve, 1_500));
    }
  }

  _add(some) {
    const fragment = document.createDocumentFragment();
    for (const line of some) {
      if (line.overwrite && this._last?._stream === line.stream) {
        text(this._last.lastChild, line.text.replace(ESCAPES, ""));
        continue;
      }
      if (this._attempt !== undefined && this._attempt !== line.attempt) {
        fragment.append(h("li", { class: "break" }, `attempt ${line.attempt}`));
      }
      this._attempt = line.attempt;
      this._begins(line);
      const missing = [line.lost_lines && `${count(line.lost_lines, "line")} lost`, line.dropped && `${count(line.dropped, "line")} dropped by the log quota`].filter(Boolean);
      const row = h("li", { class: line.stream === "stderr" ? "err" : "" },
        h("time", { title: `line ${line.n} of ${line.stream}` }, shownClock(line.at).textContent),
        h("span", {}, line.text.replace(ESCAPES, "")));
      if (line.stream === "stderr") this.key.hidden = false;
      row._stream = line.stream;
      fragment.append(row);
      this._last = row;
      if (missing.length) fragment.append(h("li", { class: "break" }, missing.join(", ")));
    }
    this.lines.append(fragment);
    while (this.lines.children.length > LINES_MAX) {
      this.lines.firstChild.remove();
      this.earlier.hidden = false;
    }
    if (this._follow) this._toEnd();
  }

  /** Say so where a stream does not begin at its first line, or the first attempts are not there. */
  _begins(line) {
    const known = this._seen.size > 0;
    if (this._seen.size === this._seen.add(`${line.attempt} ${line.stream}`).size) return;
    const first = 1 + (line.lost_lines ?? 0) + (line.dropped ?? 0);
    if (line.n > first || (!known && line.attempt > 1)) this.earlier.hidden = false;
  }

  _scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.lines;
    this._follow = scrollHeight - scrollTop - clientHeight < 24;
    this.end.hidden = this._follow;
  }

  _toEnd() {
    this._follow = true;
    this.end.hidden = true;
    this.lines.scrollTop = this.lines.scrollHeight;
  }
}

export function taskView(page, id) {
  const state = h("span", { class: "state" });
  const title = h("h1", {}, id);
  const buttons = h("div", { class: "buttons" });
  const note = h("div");
  const facts = h("dl", { class: "facts wide" });
  const why = h("div", { class: "why" });
  const files = h("div");
  const crumbs = h("span");
  const log = new Log(id);
  const body = h("div", {},
    h("nav", { class: "crumbs", "aria-label": "Where" }, crumbs, link("#/tasks", "Tasks"), " / ", h("span", { "aria-current": "page" }, id)),
    h("header", { class: "title" }, title, state, buttons), note,
    h("section", { class: "panel" }, facts),
    section("Output", [log.key, log.end, log.state], log.earlier, log.lines),
    section("Why", null, why),
    files);
  let before = null;
  let command = null;

  function draw(task) {
    if (before && before !== task.status) announce(`task ${task.name || id} is ${task.status}`);
    const changed = before !== task.status;
    before = task.status;
    text(title, task.name || id);
    fill(crumbs, link(poolHref(task.pool), task.pool), " / ");
    fill(state, taskChip(task));
    const rows = [
      ["State", task.result ? null : [words(task.status), " for ", age(task.since, "lasting")]],
      ["Result", task.result && [words(task.result), task.reason, task.exit_code !== null && task.exit_code !== undefined ? `exit code ${task.exit_code}` : "", task.signal ? `signal ${task.signal}` : ""].filter(Boolean).join(", ")],
      ["Reason", task.result ? null : task.reason],
      ["Error", task.error === `exit code ${task.exit_code}` ? null : task.error],
      ["Node", task.node === null ? null : link(nodeHref(task.pool, task.node), String(task.node))],
      ["Machine", task.instance_id && h("code", {}, task.instance_id)],
      ["Attempt", task.attempt ? `${task.attempt}${task.interruptions ? `, ${count(task.interruptions, "interruption")}` : ""}` : null],
      ["Asked for", task.queued_at ? shownClock(task.queued_at) : null],
      ["Started", task.started_at ? shownClock(task.started_at) : null],
      ["Ended", task.ended_at ? [shownClock(task.ended_at), ", ", age(task.ended_at)] : null],
      ["Took", task.duration ? lasting(task.duration) : null],
      ["Next try", task.not_before ? age(task.not_before, "due") : null],
      ["Cost", task.cost_usd ? usd(task.cost_usd) : null],
      ["Id", h("code", {}, id)],
      ["Command", command && h("code", {}, command.length > COMMAND_MAX ? `${command.slice(0, COMMAND_MAX)}…` : command)],
    ];
    fill(facts, rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("div", { class: name === "Command" ? "whole" : null }, h("dt", {}, name), h("dd", {}, value))));
    fill(buttons, page.may("submit") && task.status !== "stopped"
      ? h("button", { type: "button", class: "danger", onclick: () => stopTask(task) }, "Stop") : null);
    if (changed) explain(task);
    if (changed && task.status === "stopped") showFiles();
  }

  async function explain(task) {
    try {
      fill(why, oneWhy(await get(`/v1/explain/${encodeURIComponent(task.pool)}/tasks/${encodeURIComponent(id)}`)));
    } catch (error) {
      fill(why, problem(error));
    }
  }

  async function showFiles() {
    const found = await get(`/v1/tasks/${encodeURIComponent(id)}/files`).catch(() => []);
    if (!found.length) return;
    fill(files, section("Files", null, h("ul", { class: "files" }, found.map((file) => h("li", {},
      file.error ? h("span", {}, `${file.path}: ${file.error}`) : h("button", { type: "button", class: "linklike", onclick: () => save(file) }, file.path),
      h("span", { class: "muted" }, ` attempt ${file.attempt}`))))));
  }

  async function save(file) {
    const path = file.path.split("/").map(encodeURIComponent).join("/");
    try {
      const answer = await ask(query(`/v1/tasks/${encodeURIComponent(id)}/files/${path}`, { attempt: file.attempt }));
      const url = URL.createObjectURL(await answer.blob());
      h("a", { href: url, download: file.path.split("/").at(-1) }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      fill(note, problem(error));
    }
  }

  // A task's view does not hold it; the request for the task does, as long as that is kept.
  async function readCommand() {
    const { rows } = await events(0, 1, { request_id: id, kind: "task_requested" });
    const asked = rows[0]?.event.task;
    command = asked?.shell || (asked?.argv ?? []).join(" ") || null;
    if (source.value) draw(source.value);
  }

  const source = page.store.source(`task:${id}`, () => get(`/v1/tasks/${encodeURIComponent(id)}`));
  const ends = [
    source.watch(({ value, error }) => {
      if (error) return fill(note, problem(error));
      fill(note);
      return draw(value);
    }),
    page.onEvents((envelopes) => {
      if (envelopes.some((one) => one.request_id === id || one.ends?.includes(id))) source.touch();
    }),
    () => log.stop(),
  ];
  page.later(readCommand);
  return { title: id, nav: "tasks", element: body, end: () => ends.forEach((end) => end()) };
}
