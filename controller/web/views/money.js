// Two charts of one pool: machines taken, lost and replaced; and money.

import { Chart, incidentOptions, moneyOptions, when } from "../charts.js";
import { h, text } from "../dom.js";
import { count, now, number, usd } from "../format.js";
import { section } from "../parts.js";

const WINDOWS = [["15 min", 900], ["1 h", 3_600], ["24 h", 86_400], ["7 d", 604_800]];
const STEPS = 96;
const DAY_S = 86_400;
const BORN_S = 60; // what came so long after the oldest that is known was there from its beginning

export class PoolCharts {
  constructor(page, pool) {
    this._page = page;
    this._pool = pool;
    this._window = null; // what the user chose
    this._living = [];
    this._cost = null;
    this._choice = h("div", { class: "choice", role: "group", "aria-label": "How far back" },
      WINDOWS.map(([name, seconds]) => h("button", { type: "button", "aria-pressed": "false", "data-window": seconds, onclick: () => this._choose(seconds) }, name)));
    this._incidents = h("div", { class: "chart", role: "img" });
    this._money = h("div", { class: "chart", role: "img" });
    this._said = h("p", { class: "readout num" });
    this._spent = h("p", { class: "readout num" });
    this._note = h("p", { class: "muted" });
    const keys = (...all) => h("ul", { class: "keys" }, all.map(([name, word]) => h("li", {}, h("span", { class: `swatch ${name}` }), word)));
    const moneyKeys = keys(["c-starting", "dollars an hour"], ["c-text", "spent"], ["c-limit", "budget"]);
    this.element = h("div", { class: "two" },
      section("Taken, lost and replaced", this._choice, this._said, this._incidents,
        keys(["c-ready", "replaced"], ["c-replacing", "taken by the market"], ["c-bad", "lost without a word"]), this._note),
      section("Money", null, this._spent, this._money,
        moneyKeys));
    this._limit = moneyKeys.lastChild;
    this._charts = [
      new Chart(this._incidents, 200, incidentOptions((at) => this._pointIncident(at))),
      new Chart(this._money, 200, moneyOptions((at) => this._pointMoney(at))),
    ];
    this._end = page.history.watch(() => this.draw());
    page.later(() => page.history.reach(DAY_S));
  }

  update(living) {
    this._living = living;
    this.draw();
  }

  cost(cost) {
    this._cost = cost;
    this.draw();
  }

  end() {
    this._end();
    for (const chart of this._charts) chart.end();
  }

  async _choose(seconds) {
    this._window = seconds;
    text(this._note, "Reading…");
    try {
      await this._page.history.reach(seconds);
      text(this._note, "");
    } catch (error) {
      text(this._note, error.message);
    }
    this.draw();
  }

  /** The smallest window that holds the pool's known life, unless one was chosen. */
  _seconds() {
    if (this._window) return this._window;
    const first = this._page.history.first(this._pool);
    const age = first === null ? DAY_S : now() - first;
    return WINDOWS.find(([, seconds]) => seconds >= Math.min(age, DAY_S))[1];
  }

  draw() {
    const { history } = this._page;
    if (history.since === null || this._pending) return;
    this._pending = true;
    requestAnimationFrame(() => {
      this._pending = false;
      if (this.element.isConnected) this._draw();
    });
  }

  _draw() {
    const { history } = this._page;
    const seconds = this._seconds();
    const end = now();
    const start = end - seconds;
    for (const button of this._choice.children) button.setAttribute("aria-pressed", String(Number(button.dataset.window) === seconds));
    const slices = seconds / STEPS;
    const middles = Array.from({ length: STEPS }, (_, at) => start + (at + 0.5) * slices);
    const found = history.incidents(this._pool, start, end, STEPS);
    const down = found.preempted.map((n, at) => -n - found.lost[at]);
    this._shown = { middles, found, slices };
    const { sums } = found;
    const total = `${number(sums.preempted)} taken, ${number(sums.lost)} lost, ${number(sums.replaced)} replaced in ${name(seconds)}`;
    this._total = sums.preempted + sums.lost + sums.replaced ? total : ""; // else the chart itself says it
    text(this._said, this._total);
    const none = `Nothing was taken, lost or replaced in ${name(seconds)}.`;
    this._incidents.setAttribute("aria-label", total);
    // What was lost is drawn first and covers all; what was taken is drawn over it, down to its own share.
    const some = (all) => all.map((n) => n || null);
    this._charts[0].set([middles, some(found.replaced), some(down), some(found.preempted.map((n) => -n))], none);
    this._drawMoney(start, end);
  }

  _drawMoney(start, end) {
    const { history } = this._page;
    const times = Array.from({ length: STEPS + 1 }, (_, at) => start + ((end - start) * at) / STEPS);
    const rates = history.rates(this._pool, this._living, start, end, STEPS);
    const limit = this._cost?.budget?.periods[0] ?? null;
    const daily = limit?.period !== "total";
    const first = history.first(this._pool);
    const said = this._cost ? (daily ? this._cost.today_usd : this._cost.total_usd) : null;
    const spent = spentAt(times, rates, said, daily, first !== null && first > start && first - history.since > BORN_S);
    const budget = times.map(() => limit?.limit_usd ?? null);
    this._sums = { times, rates, spent };
    const price = this._living.reduce((sum, one) => sum + one.usd_per_hour, 0);
    const words = [`${usd(price)}/h now`];
    if (this._cost) words.push(daily ? `${usd(this._cost.today_usd)} today (UTC)` : `${usd(this._cost.total_usd)} in all`);
    if (limit) words.push(`budget ${usd(limit.limit_usd)} ${daily ? "a day" : "in all"}`);
    if (this._cost) words.push(`${usd(this._cost.total_usd)} since it is there`);
    this._line = [...new Set(words)].slice(0, 3).join(" · ");
    text(this._spent, this._line);
    this._money.setAttribute("aria-label", this._line);
    this._limit.hidden = !limit;
    const any = rates.some((rate) => rate > 0) || spent.some((sum) => sum > 0);
    this._charts[1].set([times, rates, spent, any ? budget : budget.map(() => null)], "Nothing is spent yet.");
  }

  _pointIncident(at) {
    if (at === null || !this._shown) return text(this._said, this._total);
    const { found, middles, slices } = this._shown;
    return text(this._said, `${when(middles[at] - slices / 2)}: ${found.preempted[at]} taken, ${found.lost[at]} lost, ${found.replaced[at]} replaced`);
  }

  _pointMoney(at) {
    if (at === null || !this._sums) return text(this._spent, this._line);
    const { times, rates, spent } = this._sums;
    return text(this._spent, `${when(times[at])}: ${usd(rates[at])}/h, ${usd(spent[at])} spent`);
  }
}

function name(seconds) {
  if (seconds < 3_600) return count(seconds / 60, "minute");
  return seconds < DAY_S ? count(seconds / 3_600, "hour") : seconds === DAY_S ? "24 hours" : count(seconds / DAY_S, "day");
}

/**
 * What was spent up to each moment: of its day, or in all; it ends in what the daemon says. With `all` it is known
 * from the pool's first machine on, and begins at nothing.
 */
function spentAt(times, rates, end, daily, all) {
  const found = [];
  let sum = 0;
  let day = Math.floor(times[0] / DAY_S);
  times.forEach((at, place) => {
    if (place) sum += (rates[place - 1] * (at - times[place - 1])) / 3600;
    const today = Math.floor(at / DAY_S);
    if (daily && today !== day) {
      sum = 0;
      day = today;
    }
    found.push(sum);
  });
  if (end === null) return found;
  if (all && sum > 0) return found.map((value) => (value * end) / sum);
  const off = end - sum;
  const last = Math.floor(times.at(-1) / DAY_S);
  return found.map((value, place) => (!daily || Math.floor(times[place] / DAY_S) === last ? Math.max(0, value + off) : value));
}

