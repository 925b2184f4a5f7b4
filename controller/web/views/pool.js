// One pool: its nodes, why it is as it is, what happened, its tasks.

import { pause, resize, run } from "../actions.js";
import { events, query, get } from "../api.js";
import { announce, fill, h, link, text } from "../dom.js";
import { count, number, usd } from "../format.js";
import { Grid } from "../grid.js";
import { budgetBar, empty, figure, newsRows, poolChip, problem, section, taskTable } from "../parts.js";
import { howTone, isPaused } from "../states.js";
import { told } from "../telling.js";
import { PoolCharts } from "./money.js";
import { NodePanel } from "./node.js";
import { howTold, tasksTold } from "./overview.js";
import { poolWhy } from "./why.js";

const TASKS = 8;
const NEWS = 12;
const NEWS_READ = 200; // of this pool's: what others do may have pushed them out of what was heard

export function poolView(page, name, wantedNode = null) {
  const state = h("span", { class: "state" });
  const buttons = h("div", { class: "buttons" });
  const note = h("div", { class: "note" });
  const how = h("p", { class: "how", hidden: true });
  const figures = { nodes: figure("Nodes ready"), price: figure("Now"), today: figure("Today"), tasks: figure("Tasks") };
  const budget = budgetBar();
  const panel = new NodePanel(page, name);
  const grid = new Grid((one) => panel.show(one), `Nodes of ${name}; arrow keys move`);
  // On a phone the panel then stays at the lower edge; the same node again lets it go.
  grid.onPick = (again) => panel.element.classList.toggle("picked", !again || !panel.element.classList.contains("picked"));
  const why = h("div", { class: "why" });
  const charts = new PoolCharts(page, name);
  const tasks = h("div");
  const news = h("ol", { class: "events" });
  const tasksLink = query("#/tasks", { pool: name });
  const eventsLink = query("#/events", { pool: name });
  const body = h("div", {},
    h("nav", { class: "crumbs", "aria-label": "Where" }, link("#/", "Pools"), " / ", h("span", { "aria-current": "page" }, name)),
    h("header", { class: "title" }, h("h1", {}, name), state, buttons),
    note, how,
    h("dl", { class: "figures" }, Object.values(figures).map((one) => one.element)),
    budget.element,
    h("div", { class: "beside" },
      h("div", {},
        h("section", { class: "panel nodes" }, h("header", {}, h("h2", {}, "Nodes"), grid.legend), grid.box, grid.note),
        section("Why", null, why)),
      panel.element),
    charts.element,
    section("Tasks", link(tasksLink, "All tasks"), tasks),
    section("Events", link(eventsLink, "All events"), news));
  let shown = null;
  let wanted = wantedNode;
  let earlier = [];

  function drawPool(pool) {
    if (shown && shown.status !== pool.status) announce(`${name} is ${pool.status}`);
    const again = !shown || isPaused(shown) !== isPaused(pool) || shown.status !== pool.status;
    shown = pool;
    fill(state, poolChip(pool));
    text(figures.nodes.value, number(pool.ready));
    const bounds = pool.max ? ` · ${pool.min} to ${pool.max}` : pool.min < pool.desired ? ` · at least ${pool.min}` : "";
    text(figures.nodes.more, `of ${number(pool.desired)}${bounds}`);
    text(figures.price.value, `${usd(pool.usd_per_hour)}/h`);
    text(figures.price.more, count(Object.values(pool.instances ?? {}).reduce((a, b) => a + b, 0), "machine"));
    text(figures.tasks.value, number(Object.values(pool.tasks ?? {}).reduce((a, b) => a + b, 0)));
    text(figures.tasks.more, tasksTold(pool, "none waits"));
    const said = howTold(pool);
    text(how, said);
    how.hidden = !said;
    how.setAttribute("class", `how t-${howTone(pool)}`);
    if (again) drawButtons(pool);
  }

  function drawButtons(pool) {
    const gone = pool.status === "destroyed" || pool.status === "draining";
    if (!page.may("submit") || gone) return fill(buttons);
    const current = () => shown ?? pool;
    return fill(buttons,
      h("button", { type: "button", class: "primary", onclick: () => run(name) }, "Run a command"),
      h("button", { type: "button", onclick: () => resize(current()) }, "Resize"),
      h("button", { type: "button", onclick: () => pause(current(), !isPaused(current())) }, isPaused(pool) ? "Resume" : "Pause"));
  }

  function drawNews() {
    const known = earlier.at(-1)?.seq ?? 0;
    const later = page.recent.filter((one) => one.pool === name && one.seq > known);
    const mine = [...earlier, ...later].filter((one) => told(one).level !== "quiet");
    newsRows(news, mine, NEWS, { pools: false, none: "Nothing happened lately." });
  }

  const newest = page.store.source(`tasks:${name}:newest`, () => get(query("/v1/tasks", { pool: name, limit: TASKS })));
  const ends = [
    page.store.pool(name).watch((source) => {
      body.classList.toggle("alone-with-note", Boolean(source.error) && !shown);
      if (source.error) fill(note, problem(source.error));
      else {
        fill(note);
        drawPool(source.value);
      }
    }),
    page.store.nodes(name).watch((source) => {
      if (source.error) return;
      grid.update(source.value.nodes, source.value.instances);
      charts.update(source.value.instances);
      if (wanted !== null) grid.choose(wanted);
      wanted = null;
      page.painted("nodes");
    }),
    page.store.costOf(name).watch((source) => {
      if (source.error) return;
      text(figures.today.value, usd(source.value.today_usd));
      text(figures.today.more, `${usd(source.value.forecast_usd)} by midnight UTC`);
      budget.update(source.value.budget);
      charts.cost(source.value);
    }),
    page.store.explain(name).watch((source) => drawWhy(why, source)),
    newest.watch((source) => {
      if (source.error) fill(tasks, problem(source.error));
      else if (!source.value.tasks.length) fill(tasks, empty("No task yet."));
      else fill(tasks, taskTable(source.value.tasks, { pools: false }));
    }),
    page.onEvents(drawNews),
  ];
  budget.element.hidden = true;
  drawNews();
  page.later(async () => {
    earlier = (await events(0, NEWS_READ, { pool: name, tail: NEWS_READ })).rows;
    drawNews();
  });
  return {
    title: name,
    nav: "pools",
    element: body,
    end() {
      charts.end();
      ends.forEach((end) => end());
    },
  };
}

/** Draw an explanation again, unless somebody reads with the keyboard in it; what is unfolded stays so. */
function drawWhy(box, source) {
  if (source.error) return fill(box, problem(source.error));
  const print = JSON.stringify(source.value.story) + JSON.stringify(source.value.next);
  if (box._print === print || (box.contains(document.activeElement) && box._print)) return box;
  box._print = print;
  const open = [...box.querySelectorAll("details")].map((one) => one.open);
  fill(box, poolWhy(source.value));
  box.querySelectorAll("details").forEach((one, at) => {
    one.open = open[at] ?? false;
  });
  return box;
}
