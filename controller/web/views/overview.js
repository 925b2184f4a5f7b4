// All pools at a glance.

import { sparkline } from "../charts.js";
import { className, fill, h, link, text } from "../dom.js";
import { count, lasting, now, number, usd } from "../format.js";
import { budgetBar, empty, figure, newsRows, nodeShares, poolChip, poolHref, problem, section, sharesBar } from "../parts.js";
import { howTone, troubleFirst } from "../states.js";
import { told } from "../telling.js";

const SPARK_S = 86_400;
const SPARK_LEAST_S = 600;
const STEPS = 60;
const NEWS = 10;

class Card {
  constructor(name) {
    this.head = h("span", { class: "state" });
    this.ready = h("b", { class: "num" });
    this.of = h("span", { class: "muted num" });
    this.shares = sharesBar();
    this.spark = h("div", { class: "sparkbox" });
    this.price = h("span", { class: "num price" });
    this.tasks = h("span", { class: "muted num" });
    this.budget = budgetBar();
    this.reason = h("p", { class: "reason" });
    this.element = h("li", { class: "card" },
      h("header", {}, h("h2", {}, link(poolHref(name), name)), this.head),
      h("div", { class: "big" }, h("p", {}, this.ready, this.of), this.spark),
      this.shares.element,
      h("p", { class: "between" }, this.price, this.tasks),
      this.budget.element,
      this.reason);
  }

  update(pool, cost) {
    fill(this.head, poolChip(pool));
    text(this.ready, number(pool.ready));
    text(this.of, ` of ${number(pool.desired)} ready`);
    this.shares.update(nodeShares(pool));
    text(this.price, `${usd(pool.usd_per_hour)}/h`);
    text(this.tasks, tasksTold(pool));
    this.budget.update(cost?.budget ?? null);
    const said = howTold(pool);
    text(this.reason, said);
    this.reason.hidden = !said;
    const tone = howTone(pool);
    className(this.reason, tone === "bad" ? "reason bad" : tone === "replacing" && pool.outdated ? "reason warn" : "reason");
  }

  history(history, pool) {
    const end = now();
    const seconds = Math.min(SPARK_S, Math.max(SPARK_LEAST_S, end - (history.first(pool.name) ?? 0)));
    const values = history.machines(pool.name, machinesOf(pool), end - seconds, end, STEPS);
    const label = `machines in the last ${lasting(seconds)}: ${Math.min(...values)} to ${Math.max(...values)}`;
    fill(this.spark, sparkline(values, label));
  }
}

function machinesOf(pool) {
  return Object.values(pool.instances ?? {}).reduce((sum, n) => sum + n, 0);
}

/** What is to be said of how a pool is, besides its state: why it is parked or paused, what is being replaced. */
export function howTold(pool) {
  const said = typeof pool.reason === "string" ? pool.reason : "";
  return said && said[0].toUpperCase() + said.slice(1);
}

export function tasksTold(pool, none = "no tasks") {
  const running = pool.tasks?.running ?? 0;
  const waiting = pool.queue ?? 0;
  if (!running && !waiting) return none;
  return [running ? `${number(running)} running` : "", waiting ? `${number(waiting)} waiting` : ""].filter(Boolean).join(", ");
}

export function overview(page) {
  const cards = new Map();
  const list = h("ul", { class: "cards", "aria-label": "Pools" });
  const figures = {
    pools: figure("Pools"), nodes: figure("Nodes ready"), price: figure("Now"), today: figure("Today"), tasks: figure("Tasks running"),
  };
  const note = h("div");
  const news = h("ol", { class: "events" });
  const body = h("div", {},
    h("h1", { class: "hidden" }, "Pools"),
    h("dl", { class: "figures" }, Object.values(figures).map((one) => one.element)),
    note, list,
    section("Lately", link("#/events", "All events"), news));
  let pools = null;
  let costs = null;

  function draw() {
    if (!pools) return;
    const known = new Map((costs?.pools ?? []).map((one) => [one.pool, one]));
    for (const name of [...cards.keys()]) {
      if (!pools.some((pool) => pool.name === name)) {
        cards.get(name).element.remove();
        cards.delete(name);
      }
    }
    const held = document.activeElement;
    troubleFirst(pools).forEach((pool, at) => {
      let card = cards.get(pool.name);
      if (!card) cards.set(pool.name, (card = new Card(pool.name)));
      card.update(pool, known.get(pool.name));
      if (list.children[at] !== card.element) list.insertBefore(card.element, list.children[at] ?? null);
    });
    if (held !== document.activeElement && list.contains(held)) held.focus(); // its card was moved
    const sum = (of) => pools.reduce((total, pool) => total + of(pool), 0);
    text(figures.pools.value, number(pools.length));
    const whole = pools.filter((pool) => pool.status === "ready").length;
    text(figures.pools.more, pools.length ? (whole === pools.length ? "all whole" : `${whole} whole`) : "none yet");
    text(figures.nodes.value, number(sum((pool) => pool.ready)));
    text(figures.nodes.more, `of ${number(sum((pool) => pool.desired))}`);
    text(figures.tasks.value, number(sum((pool) => pool.tasks?.running ?? 0)));
    text(figures.tasks.more, `${number(sum((pool) => pool.queue ?? 0))} waiting`);
    text(figures.price.value, `${usd(sum((pool) => pool.usd_per_hour))}/h`);
    text(figures.price.more, `${number(sum(machinesOf))} machines`);
    text(figures.today.value, costs ? usd(costs.today_usd) : "–");
    text(figures.today.more, costs ? `${usd(costs.forecast_usd)} by midnight UTC` : "");
    fill(note, pools.length ? null : empty("There is no pool yet. ", h("code", {}, "everpool up NAME --nodes 3"), " makes one."));
  }

  function sparks() {
    for (const pool of pools ?? []) cards.get(pool.name)?.history(page.history, pool);
  }

  function drawNews() {
    const worth = page.recent.filter((one) => ["good", "warn", "bad"].includes(told(one).level));
    newsRows(news, worth, NEWS, { none: "Nothing of note yet." });
  }

  const ends = [
    page.store.pools().watch((source) => {
      if (source.error) return fill(note, problem(source.error));
      pools = source.value;
      draw();
      page.painted("pools");
      if (page.history.since !== null) sparks();
      return undefined;
    }),
    page.store.cost().watch((source) => {
      if (!source.error) costs = source.value;
      draw();
    }),
    page.history.watch(sparks),
    page.onEvents(drawNews),
  ];
  drawNews();
  page.later(() => page.history.reach(SPARK_S));
  return { title: "Pools", nav: "pools", element: body, end: () => ends.forEach((end) => end()) };
}
