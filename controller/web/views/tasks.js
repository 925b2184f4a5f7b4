// All tasks, the newest first, page by page.

import { run } from "../actions.js";
import { get, query } from "../api.js";
import { fill, h } from "../dom.js";
import { empty, problem, taskTable } from "../parts.js";
import { TASK_FILTERS } from "../states.js";

const PAGE = 50;

export function tasksView(page, wanted) {
  const pool = wanted.get("pool") ?? "";
  const status = wanted.get("status") ?? "";
  const cursor = wanted.get("cursor") ?? "";
  const list = h("div", { class: "panel flush" });
  const older = h("div", { class: "pager" });
  const pools = h("select", { "aria-label": "Pool", onchange: () => go({ pool: pools.value, status }) }, h("option", { value: "" }, "All pools"));
  const statuses = h("select", { "aria-label": "State", onchange: () => go({ pool, status: statuses.value }) },
    TASK_FILTERS.map(([value, name]) => h("option", { value, selected: value === status }, name)));
  const go = (to) => {
    location.hash = query("#/tasks", to);
  };
  const action = h("div", { class: "buttons" });
  const body = h("div", {}, h("header", { class: "title" }, h("h1", {}, "Tasks"), h("div", { class: "filters" }, pools, statuses), action), list, older);
  if (page.may("submit") && pool) fill(action, h("button", { type: "button", class: "primary", onclick: () => run(pool) }, "Run a command"));
  const path = query("/v1/tasks", { pool, status, cursor, limit: PAGE });
  const ends = [
    page.store.source(`tasks:${pool}:${status}:${cursor}`, () => get(path)).watch((source) => {
      if (source.error) return fill(list, problem(source.error));
      const { tasks, cursor: next } = source.value;
      const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      fill(list, tasks.length ? taskTable(tasks, { pools: !pool }) : empty(status || pool ? "No task fits." : "No task yet."));
      if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
      fill(older,
        cursor ? h("a", { class: "button", href: query("#/tasks", { pool, status }) }, "Newest") : null,
        next ? h("a", { class: "button", href: query("#/tasks", { pool, status, cursor: next }) }, "Older") : null);
      page.painted("tasks");
      return undefined;
    }),
    page.store.pools().watch((source) => {
      if (source.error) return;
      const names = source.value.map((one) => one.name);
      if (pool && !names.includes(pool)) names.push(pool);
      fill(pools, h("option", { value: "" }, "All pools"), names.map((name) => h("option", { value: name, selected: name === pool }, name)));
      pools.value = pool;
    }),
  ];
  return { title: "Tasks", nav: "tasks", element: body, end: () => ends.forEach((end) => end()) };
}
