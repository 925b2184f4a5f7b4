// Pieces that several views show.

import { h, link, text } from "./dom.js";
import { ago, clock, due, lasting, moment, now, number, usd, words } from "./format.js";
import { poolState, taskState } from "./states.js";
import { LEVELS, told } from "./telling.js";

/** A state as a word with a shape and a colour. */
export function chip({ word, tone }) {
  return h("span", { class: `chip t-${tone}` }, words(word));
}

export function poolChip(pool) {
  return chip(poolState(pool));
}

export function taskChip(task) {
  return chip(taskState(task));
}

/** A time that stays right: `ago`, `lasting` since then, or `due`. */
export function age(at, form = "ago") {
  const element = h("time", { title: moment(at), "data-at": at ?? "", "data-form": form });
  tickOne(element);
  return element;
}

function tickOne(element) {
  const at = Number(element.dataset.at);
  if (!at) return text(element, "–");
  if (element.dataset.form === "ago") return text(element, ago(at));
  return text(element, element.dataset.form === "due" ? due(at) : lasting(now() - at));
}

/** Set all times that are shown. */
export function tick() {
  for (const element of document.querySelectorAll("time[data-at]")) tickOne(element);
}

export function shownClock(at) {
  return h("time", { title: moment(at), class: "num" }, clock(at));
}

/** A figure with its name. */
export function figure(name) {
  const value = h("dd", { class: "num" });
  const more = h("dd", { class: "more" });
  const element = h("div", { class: "figure" }, h("dt", {}, name), value, more);
  return { element, value, more };
}

const THEN = { warn: "a warning only", "stop-launching": "nothing is launched", drain: "its machines are ended" };

/** What was spent of a limit, as a bar. */
export function budgetBar() {
  const part = h("span");
  const bar = h("div", { class: "bar", role: "meter", "aria-valuemin": "0", "aria-label": "spent of the budget" }, part);
  const line = h("p", { class: "barline num" });
  const element = h("div", { class: "budget" }, bar, line);
  return {
    element,
    update(budget) {
      element.hidden = !budget;
      if (!budget) return;
      const period = budget.periods.reduce((a, b) => (b.spent_usd / b.limit_usd > a.spent_usd / a.limit_usd ? b : a));
      const share = period.limit_usd > 0 ? period.spent_usd / period.limit_usd : 1;
      part.style.width = `${Math.min(100, share * 100)}%`;
      const warned = budget.warn_at?.length ? Math.min(...budget.warn_at) : 0.8;
      const level = period.reached || share >= 1 ? "over" : share >= (warned > 1 ? warned / 100 : warned) ? "near" : "";
      bar.setAttribute("class", `bar ${level}`);
      bar.setAttribute("aria-valuenow", period.spent_usd.toFixed(4));
      bar.setAttribute("aria-valuemax", period.limit_usd.toFixed(4));
      const what = period.period === "day" ? "today" : "in all";
      const ends = period.reached ? `reached: ${THEN[budget.then] ?? budget.then}` : period.reached_at ? `reached ${due(period.reached_at)} at this rate` : `${usd(period.left_usd)} left`;
      const said = `${usd(period.spent_usd)} of ${usd(period.limit_usd)} ${what} · ${ends}`;
      bar.setAttribute("aria-valuetext", said);
      text(line, said);
    },
  };
}

/** Shares of a whole as one bar: `[[tone, count, word]]`. */
export function sharesBar() {
  const element = h("div", { class: "shares", role: "img" });
  return {
    element,
    update(parts) {
      const some = parts.filter(([, n]) => n > 0);
      const label = some.map(([, n, word]) => `${number(n)} ${word}`).join(", ") || "no nodes";
      if (element.getAttribute("aria-label") === label) return;
      element.setAttribute("aria-label", label);
      element.setAttribute("title", label);
      element.replaceChildren(...some.map(([tone, n]) => {
        const part = h("span", { class: `s-${tone}` });
        part.style.flexGrow = String(n);
        return part;
      }));
    },
  };
}

/** A pool's nodes by what they are at, from its counts. */
export function nodeShares(pool) {
  const there = pool.instances ?? {};
  const starting = (there.requested ?? 0) + (there.provisioning ?? 0) + (there.bootstrapping ?? 0);
  const waiting = Math.max(0, pool.desired - pool.ready - starting);
  return [
    ["ready", pool.ready, "ready"],
    ["starting", starting, "starting"],
    ["waiting", waiting, "waiting"],
    ["draining", there.draining ?? 0, "draining"],
    ["ending", there.destroying ?? 0, "ending"],
  ];
}

export function section(title, extra, ...children) {
  return h("section", { class: "panel" }, h("header", {}, h("h2", {}, title), h("div", { class: "extra" }, extra)), ...children);
}

/** An error of the API, as it is. */
export function problem(error) {
  const detail = error.detail?.length ? h("ul", {}, error.detail.map((line) => h("li", {}, line))) : null;
  return h("div", { class: "problem", role: "alert" }, h("p", {}, error.message), detail);
}

export function empty(line, ...more) {
  return h("p", { class: "empty" }, line, ...more);
}

export const poolHref = (name) => `#/pools/${encodeURIComponent(name)}`;
export const taskHref = (id) => `#/task/${encodeURIComponent(id)}`;
export const nodeHref = (pool, node) => `${poolHref(pool)}/nodes/${node}`;

/** One event as a row. Its JSON is a click away. */
export function eventRow(envelope, { pools = true } = {}) {
  const { level, line } = told(envelope);
  const row = h("li", { class: `event l-${level}` },
    shownClock(envelope.at),
    h("span", { class: "mark", title: LEVELS[level] }, h("span", { class: "hidden" }, `${LEVELS[level]}: `)),
    pools ? h("span", { class: "of" }, envelope.pool ? link(poolHref(envelope.pool), envelope.pool) : "") : null,
    h("span", { class: "line" }, line),
    h("button", {
      type: "button", class: "kind", "aria-expanded": "false", title: "Show all of it",
      onclick: (event) => {
        const open = row.querySelector("pre");
        if (open) open.remove();
        else row.append(h("pre", { tabindex: "0" }, JSON.stringify(envelope, null, 2)));
        event.currentTarget.setAttribute("aria-expanded", String(!open));
      },
    }, words(envelope.event.kind)));
  return row;
}

/** The newest of these, the newest first; alike ones in a row are one with a count. */
export function newsRows(list, envelopes, most, { pools = true, none }) {
  const groups = [];
  for (let at = envelopes.length - 1; at >= 0 && groups.length <= most; at -= 1) {
    const { line } = told(envelopes[at]);
    const last = groups.at(-1);
    if (last?.line === line && last.envelope.pool === envelopes[at].pool) last.count += 1;
    else groups.push({ envelope: envelopes[at], line, count: 1 });
  }
  const print = groups.slice(0, most).map((one) => `${one.envelope.seq}x${one.count}`).join();
  if (list._print === print && print) return;
  list._print = print;
  list.replaceChildren(...groups.slice(0, most).map(({ envelope, count }) => {
    const row = eventRow(envelope, { pools });
    if (count > 1) row.querySelector(".line").after(h("span", { class: "times num" }, `${count} times`));
    return row;
  }));
  if (!groups.length) list.replaceChildren(h("li", { class: "empty" }, none));
}

/** A market, which may break at its slashes only. */
export function market(name) {
  return name.split("/").flatMap((part, at) => [at ? ["/", h("wbr")] : "", h("span", { class: "unbroken" }, part)]);
}

/**
 * A table that scrolls where it is too wide, and whose rows become cards on a phone, each cell with its heading.
 * Its roles are said because some browsers forget a table's meaning when it is laid out otherwise. A cell is what it
 * shows, or an element `td`; one that is `null` takes no room on a card.
 */
export function table(caption, heads, rows, kind = "") {
  const cell = (value, at) => {
    const td = value instanceof HTMLTableCellElement ? value : h("td", {}, value ?? "–");
    td.setAttribute("role", "cell");
    td.dataset.head = heads[at];
    if (value === null || value === undefined) td.classList.add("none");
    return td;
  };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { class: `cards-when-narrow ${kind}`.trim(), role: "table" }, h("caption", { class: "hidden" }, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads.map((head) => h("th", { scope: "col", role: "columnheader" }, head)))),
      h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, row.map(cell))))));
}

/** Rows of tasks. */
export function taskTable(tasks, { pools = true } = {}) {
  const num = (value) => (value === null ? null : h("td", { class: "num" }, value));
  const rows = tasks.map((task) => [
    h("td", { class: "name" }, link(taskHref(task.id), h("b", {}, task.name || task.id), " ", task.name ? h("span", { class: "id" }, task.id) : null)),
    ...(pools ? [h("td", { class: "of" }, link(poolHref(task.pool), task.pool))] : []),
    h("td", { class: "is" }, taskChip(task)),
    num(task.node === null ? null : link(nodeHref(task.pool, task.node), String(task.node))),
    num(age(task.since)),
    num(took(task)),
    num(task.cost_usd ? usd(task.cost_usd) : null),
  ]);
  return table("Tasks", ["Task", ...(pools ? ["Pool"] : []), "State", "Node", "Since", "Took", "Cost"], rows, "tasks");
}

function took(task) {
  if (task.duration) return lasting(task.duration);
  return task.started_at && task.status === "running" ? age(task.started_at, "lasting") : null;
}
