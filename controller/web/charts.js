// Charts. uPlot is the library's published file, loaded when a chart is first drawn.

import { colour, h, svg, text } from "./dom.js";
import { usd } from "./format.js";

let loading = null;
function library() {
  loading ??= new Promise((resolve, reject) => {
    const waiting = document.getElementById("uplot");
    if (window.uPlot) resolve(window.uPlot);
    waiting.addEventListener("load", () => resolve(window.uPlot), { once: true });
    waiting.addEventListener("error", () => reject(new Error("the chart library could not be read")), { once: true });
  });
  return loading;
}

const hour = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export function when(at) {
  return full.format(new Date(at * 1000));
}

function ticks(_, splits, __, ___, increment) {
  return splits.map((at) => {
    const date = new Date(at * 1000);
    return increment >= 86_400 || (date.getHours() === 0 && date.getMinutes() === 0) ? day.format(date) : hour.format(date);
  });
}

/** One chart in a box, as wide as the box is. `options(uPlot)` makes its options anew when colours change. */
export class Chart {
  constructor(box, height, options) {
    this._box = box;
    this._nothing = h("p", { class: "nothing", hidden: true });
    box.append(this._nothing);
    this._height = height;
    this._options = options;
    this._data = null;
    this._plot = null;
    this._sized = new ResizeObserver(() => this._size());
    this._sized.observe(box);
    this._theme = () => this._draw(true);
    document.addEventListener("everpool-theme", this._theme);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this._theme);
  }

  /** Draw this; where there is nothing to see, say so by `none`. */
  set(data, none) {
    this._data = data;
    this._nothing.hidden = !isEmpty(data);
    text(this._nothing, isEmpty(data) ? none : "");
    this._draw(false);
  }

  async _draw(anew) {
    const uPlot = await library();
    if (!this._data || !this._box.isConnected) return;
    if (this._plot && !anew) {
      this._plot.setData(this._data);
      return;
    }
    this._plot?.destroy();
    const width = Math.max(200, this._box.clientWidth);
    const options = { width, height: this._height, legend: { show: false }, ...this._options(uPlot) };
    this._plot = new uPlot(options, this._data, this._box);
  }

  _size() {
    const width = Math.max(200, this._box.clientWidth);
    if (this._plot && this._plot.width !== width) this._plot.setSize({ width, height: this._height });
  }

  end() {
    this._sized.disconnect();
    document.removeEventListener("everpool-theme", this._theme);
    matchMedia("(prefers-color-scheme: dark)").removeEventListener("change", this._theme);
    this._plot?.destroy();
    this._plot = null;
    this._data = null;
  }
}

function axis(extra) {
  return {
    stroke: colour("--muted"),
    font: "12px system-ui, sans-serif",
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    ...extra,
  };
}

/** The axis of times: no more room than its words need. */
function times() {
  return axis({ values: ticks, space: 70, size: 26 });
}

/** Words of an axis; none where nothing is drawn, as its numbers would mean nothing. */
function told(word) {
  return (plot, splits) => (isEmpty(plot.data) ? splits.map(() => "") : splits.map(word));
}

/** Whether there is nothing to see in what a chart is given: its times come first, then its series. */
export function isEmpty([, ...series]) {
  return series.every((values) => values.every((value) => !value));
}

const cursor = { points: { show: false }, drag: { x: false, y: false } };

function moved(tell) {
  return { setCursor: [(plot) => tell(plot.cursor.idx ?? null)] };
}

/** Replaced upwards; taken and lost downwards. `tell(index or null)` hears where the pointer is. */
export function incidentOptions(tell) {
  return (uPlot) => {
    const bars = uPlot.paths.bars({ size: [0.8, 18, 2], radius: 0.15 });
    const series = (name) => ({ paths: bars, points: { show: false }, fill: colour(name), stroke: colour(name), width: 0 });
    return {
      cursor: { ...cursor, y: false },
      scales: { y: { range: (_, low, high) => [Math.min(-1, low ?? 0) * 1.1, Math.max(1, high ?? 0) * 1.1] } },
      axes: [
        times(),
        axis({ size: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000], values: told((n) => String(Math.abs(n))) }),
      ],
      series: [{}, series("--ready"), series("--bad"), series("--replacing")],
      hooks: moved(tell),
    };
  };
}

/** Dollars an hour on the left; what was spent, and the budget, on the right. */
export function moneyOptions(tell) {
  return (uPlot) => ({
    cursor: { ...cursor, y: false },
    scales: {
      rate: { range: (_, __, high) => [0, Math.max(high * 1.15, 0.001)] },
      spent: { range: (_, __, high) => [0, Math.max(high * 1.1, 0.004)] },
    },
    axes: [
      times(),
      axis({ scale: "rate", size: 62, values: told(usd) }),
      axis({ scale: "spent", side: 1, size: 66, grid: { show: false }, values: told(usd) }),
    ],
    series: [
      {},
      { scale: "rate", stroke: colour("--starting"), fill: colour("--starting-soft"), width: 1.5, points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) },
      { scale: "spent", stroke: colour("--text"), width: 2, points: { show: false } },
      { scale: "spent", stroke: colour("--bad"), width: 1.5, dash: [6, 5], points: { show: false } },
    ],
    hooks: moved(tell),
  });
}

/** A small line without axes. */
export function sparkline(values, label) {
  const width = 120;
  const height = 28;
  const top = Math.max(1, ...values);
  const points = values.map((value, at) => `${((at / Math.max(1, values.length - 1)) * width).toFixed(1)},${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "spark", role: "img", "aria-label": label, preserveAspectRatio: "none" },
    svg("polygon", { points: `0,${height} ${points.join(" ")} ${width},${height}` }),
    svg("polyline", { points: points.join(" ") }));
}
