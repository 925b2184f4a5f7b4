// What happens, as it happens; and what happened.

import { query } from "../api.js";
import { fill, h, text } from "../dom.js";
import { number } from "../format.js";
import { eventRow } from "../parts.js";
import { LEVELS, told } from "../telling.js";

const SHOWN_MAX = 500;
const CHOICES = [["", "All but details"], ["warn", "Warnings and errors"], ["bad", "Errors"], ["all", "Everything"]];
const FITS = {
  "": (level) => level !== "quiet", warn: (level) => level === "warn" || level === "bad", bad: (level) => level === "bad", all: () => true,
};

export function eventsView(page, wanted) {
  const pool = wanted.get("pool") ?? "";
  const level = CHOICES.some(([value]) => value === wanted.get("level")) ? wanted.get("level") : "";
  const list = h("ol", { class: "events" });
  const note = h("p", { class: "muted" });
  const go = (to) => {
    location.hash = query("#/events", to);
  };
  const pools = h("select", { "aria-label": "Pool", onchange: () => go({ pool: pools.value, level }) });
  const levels = h("select", { "aria-label": "Which", onchange: () => go({ pool, level: levels.value }) },
    CHOICES.map(([value, name]) => h("option", { value, selected: value === level }, name)));
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search", oninput: () => draw() });
  const hold = h("button", { type: "button", "aria-pressed": "false", onclick: () => toggle() }, "Hold");
  let held = null;

  function toggle() {
    held = held ? null : [...page.recent];
    hold.setAttribute("aria-pressed", String(Boolean(held)));
    text(hold, held ? "Go on" : "Hold");
    draw();
  }

  function fits(envelope, sought) {
    if (pool && envelope.pool !== pool) return false;
    const { level: its, line } = told(envelope);
    if (!FITS[level](its)) return false;
    return !sought || `${envelope.event.kind} ${line} ${envelope.pool} ${envelope.request_id} ${LEVELS[its]}`.toLowerCase().includes(sought);
  }

  function draw() {
    const sought = search.value.trim().toLowerCase();
    const known = held ?? page.recent;
    const fitting = known.filter((one) => fits(one, sought)).slice(-SHOWN_MAX).reverse();
    text(note, `${number(fitting.length)} of the last ${number(known.length)}${held ? ", held" : ""}`);
    if (!fitting.length) return fill(list, h("li", { class: "empty" }, sought || pool || level ? "Nothing fits." : "Nothing happened yet."));
    const rows = new Map([...list.children].map((row) => [row._seq, row]));
    const wantedRows = fitting.map((one) => {
      const row = rows.get(one.seq) ?? eventRow(one, { pools: !pool });
      row._seq = one.seq;
      return row;
    });
    if (wantedRows.every((row, at) => list.children[at] === row) && list.children.length === wantedRows.length) return list;
    // New rows go on top of those that stay, so that what is focused or unfolded is left alone.
    const keep = new Set(wantedRows);
    for (const row of [...list.children]) if (!keep.has(row)) row.remove();
    let next = list.firstChild;
    for (const row of wantedRows) {
      if (row === next) next = next.nextSibling;
      else list.insertBefore(row, next);
    }
    return list;
  }

  const body = h("div", {},
    h("header", { class: "title" }, h("h1", {}, "Events"), h("div", { class: "filters" }, pools, levels, search, hold)),
    note, h("div", { class: "panel flush" }, list));
  const ends = [
    page.onEvents(() => {
      if (!held) draw();
    }),
    page.store.pools().watch((source) => {
      if (source.error) return;
      const names = source.value.map((one) => one.name);
      if (pool && !names.includes(pool)) names.push(pool);
      fill(pools, h("option", { value: "" }, "All pools"), names.map((name) => h("option", { value: name }, name)));
      pools.value = pool;
    }),
  ];
  draw();
  return { title: "Events", nav: "events", element: body, end: () => ends.forEach((end) => end()) };
}
