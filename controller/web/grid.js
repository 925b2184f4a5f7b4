// The nodes of a pool as a grid: one box of options, walked by arrow keys, with one update per reading.

import { className, fill, h, text } from "./dom.js";
import { lasting, now, usd } from "./format.js";
import { NODE_STATES, nodeState } from "./states.js";

const SHOWN_MAX = 5_000;

/**
 * A grid that tells `onShow(node)` what to say more of: what is pointed at, else what was chosen.
 * Nodes are `{ node, instance, state }`.
 */
export class Grid {
  constructor(onShow, label) {
    this._onShow = onShow;
    this.onPick = null; // told at a click, before the node is shown; with whether it was chosen already
    this._cells = new Map(); // rank -> its cell
    this._known = new Map(); // rank -> what is shown
    this._order = [];
    this._chosen = null;
    this._pointed = null;
    this.box = h("div", {
      class: "grid", role: "listbox", tabindex: "0", "aria-label": label, id: "node-grid",
      onkeydown: (event) => this._key(event),
      onclick: (event) => this._click(event),
      onpointerover: (event) => this._point(event),
      onpointerleave: () => this._unpoint(),
      onfocus: () => this._mark(),
    });
    this.note = h("p", { class: "muted", hidden: true });
    this.legend = h("ul", { class: "legend", "aria-label": "Nodes by state; each goes to the next such node" });
  }

  /** Show these nodes, which are in the order of their ranks. */
  update(nodes, instances) {
    const filling = new Map(instances.map((one) => [one.id, one]));
    const shown = nodes.slice(0, SHOWN_MAX).map((node) => {
      const instance = filling.get(node.instance_id) ?? null;
      return { node, instance, old: filling.get(node.old_instance_id) ?? null, state: nodeState(node, instance) };
    });
    const size = nodes.length <= 12 ? "large" : nodes.length <= 150 ? "medium" : nodes.length <= 400 ? "small" : "tiny";
    const order = shown.map((one) => one.node.node);
    const same = this._size === size && order.length === this._order.length && order.every((rank, at) => rank === this._order[at]);
    this._known = new Map(shown.map((one) => [one.node.node, one]));
    if (!same) this._rebuild(shown, size, order);
    else for (const one of shown) this._paint(this._cells.get(one.node.node), one);
    this._legend(shown);
    this.note.hidden = nodes.length <= SHOWN_MAX;
    text(this.note, `The first ${SHOWN_MAX} of ${nodes.length} nodes are shown.`);
    if (!this._known.has(this._chosen)) this._chosen = this._worst(shown);
    this._mark();
    this._show();
  }

  _rebuild(shown, size, order) {
    this._cells.clear();
    const fragment = document.createDocumentFragment();
    for (const one of shown) {
      const rank = one.node.node;
      const cell = h("div", { role: "option", id: `node-${rank}`, "aria-selected": "false" });
      cell.dataset.node = rank;
      this._size = size;
      this._paint(cell, one);
      this._cells.set(rank, cell);
      fragment.append(cell);
    }
    this._size = size;
    this._order = order;
    className(this.box, `grid ${size}`);
    this.box.replaceChildren(fragment);
  }

  _paint(cell, one) {
    const { node, instance, state } = one;
    const known = NODE_STATES[state];
    const print = `${state}|${instance?.id ?? ""}|${instance?.status ?? ""}|${instance?.usd_per_hour ?? ""}`;
    if (this._size === "large") {
      if (cell._print !== print) this._paintLarge(cell, one);
      text(cell._age, instance ? lasting(now() - (instance.launched_at ?? instance.created_at)) : lasting(now() - node.since));
    } else if (cell._print !== print) {
      text(cell, this._size === "medium" ? `${node.node}` : known.letter);
      if (this._size === "medium" && known.letter) cell.append(h("i", { "aria-hidden": "true" }, known.letter));
    }
    if (cell._print !== print) {
      cell.setAttribute("class", `cell s-${state}`);
      cell.setAttribute("aria-label", `Node ${node.node}, ${known.word}`);
      cell._print = print;
    }
  }

  _paintLarge(cell, { node, instance, state }) {
    const known = NODE_STATES[state];
    cell._age = h("span", { class: "num" });
    fill(
      cell,
      h("span", { class: "rank" }, `${node.node}`),
      h("span", { class: "word" }, known.word),
      h("span", { class: "what" }, instance ? instance.instance_type : node.why_waiting || "no machine"),
      h("span", { class: "where" }, instance ? instance.market.split("/").slice(0, 3).filter((part) => part).join(" · ") : ""),
      h("span", { class: "foot" },
        h("span", {}, instance ? instance.lifecycle.replace("_", " ") : ""),
        h("span", { class: "num" }, instance ? `${usd(instance.usd_per_hour)}/h` : ""),
        cell._age),
    );
  }

  _legend(shown) {
    const counts = {};
    for (const one of shown) counts[one.state] = (counts[one.state] ?? 0) + 1;
    const print = JSON.stringify(counts);
    if (this._counts === print) return;
    this._counts = print;
    fill(this.legend, Object.entries(NODE_STATES).filter(([state]) => counts[state]).map(([state, known]) =>
      h("li", {}, h("button", { type: "button", title: `${known.told}: go to the next`, onclick: () => this._next(state) },
        h("span", { class: `cell key s-${state}`, "aria-hidden": "true" }, known.letter),
        h("b", { class: "num" }, String(counts[state])), " ", known.word))));
  }

  _worst(shown) {
    return (shown.find((one) => one.state !== "ready") ?? shown[0])?.node.node ?? null;
  }

  _next(state) {
    const start = this._order.indexOf(this._chosen);
    for (let step = 1; step <= this._order.length; step += 1) {
      const rank = this._order[(start + step) % this._order.length];
      if (this._known.get(rank).state === state) return this.choose(rank);
    }
    return undefined;
  }

  /** Choose a node, and keep it in sight. */
  choose(rank) {
    this._chosen = rank;
    this._pointed = null;
    this._mark();
    this._cells.get(rank)?.scrollIntoView({ block: "nearest" });
    this._show();
  }

  _mark() {
    const cell = this._cells.get(this._chosen);
    if (this._marked && this._marked !== cell) this._marked.setAttribute("aria-selected", "false");
    if (cell) {
      cell.setAttribute("aria-selected", "true");
      this.box.setAttribute("aria-activedescendant", cell.id);
    } else this.box.removeAttribute("aria-activedescendant");
    this._marked = cell;
  }

  _show() {
    this._onShow(this._known.get(this._pointed ?? this._chosen) ?? null);
  }

  _rankAt(event) {
    const cell = event.target.closest?.("[data-node]");
    return cell ? Number(cell.dataset.node) : null;
  }

  _click(event) {
    const rank = this._rankAt(event);
    if (rank === null) return;
    this.onPick?.(rank === this._chosen);
    this.choose(rank);
  }

  _point(event) {
    if (event.pointerType === "touch") return;
    const rank = this._rankAt(event);
    if (rank === null || rank === this._pointed) return;
    this._pointed = rank;
    this._show();
  }

  _unpoint() {
    if (this._pointed === null) return;
    this._pointed = null;
    this._show();
  }

  _columns() {
    const first = this._cells.get(this._order[0]);
    let columns = 1;
    while (columns < this._order.length && this._cells.get(this._order[columns]).offsetTop === first.offsetTop) columns += 1;
    return columns;
  }

  _key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this._order.length) return;
    const at = Math.max(0, this._order.indexOf(this._chosen));
    const last = this._order.length - 1;
    const rows = (n) => at + n * this._columns();
    const wanted = {
      ArrowRight: () => at + 1,
      ArrowLeft: () => at - 1,
      ArrowDown: () => (rows(1) <= last ? rows(1) : at),
      ArrowUp: () => (rows(-1) >= 0 ? rows(-1) : at),
      PageDown: () => Math.min(last, rows(5)),
      PageUp: () => Math.max(0, rows(-5)),
      Home: () => 0,
      End: () => last,
    }[event.key];
    if (wanted) {
      event.preventDefault();
      this.choose(this._order[Math.min(last, Math.max(0, wanted()))]);
    }
  }
}
