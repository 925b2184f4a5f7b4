// One node: what is known of it, and what may be done to it.

import { drain, run } from "../actions.js";
import { get } from "../api.js";
import { fill, h, link, text } from "../dom.js";
import { usd, words } from "../format.js";
import { age, chip, market, problem, taskHref } from "../parts.js";
import { NODE_STATES } from "../states.js";
import { oneWhy } from "./why.js";

const TONES = { silent: "bad" };

/** The panel beside the grid. */
export class NodePanel {
  constructor(page, pool) {
    this._page = page;
    this._pool = pool;
    this._shown = null;
    this._more = h("div", { class: "more" });
    this._facts = h("dl", { class: "facts" });
    this._head = h("header");
    this._buttons = h("div", { class: "buttons" });
    this.element = h("aside", { class: "node", "aria-label": "Node" }, this._head, this._facts, this._buttons, this._more);
  }

  show(one) {
    if (!one) {
      this._shown = null;
      fill(this._head, h("p", { class: "empty" }, "No nodes."));
      for (const part of [this._facts, this._buttons, this._more]) fill(part);
      return;
    }
    const { node, instance, old, state } = one;
    const print = JSON.stringify([node, { ...instance, age_s: 0, tasks: 0 }, old?.status, state]);
    if (print === this._print && this._shown === node.node) return;
    const identity = `${node.node} ${node.status} ${instance?.id} ${instance?.status}`;
    const other = this._identity !== identity;
    this._print = print;
    this._shown = node.node;
    this._identity = identity;
    fill(this._head, h("h3", {}, `Node ${node.node}`), chip({ word: NODE_STATES[state].word, tone: TONES[state] ?? state }));
    fill(this._facts, this._rows(node, instance, old).filter(([, value]) => value !== null && value !== "" && value !== undefined)
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    if (other) this._offer(node, instance);
  }

  _rows(node, instance, old) {
    const machine = instance ?? {};
    const silent = machine.silent_since ? ["does not answer for ", age(machine.silent_since, "lasting")] : null;
    return [
      ["Machine", instance ? h("code", {}, instance.id) : "none"],
      ["State", instance ? [words(instance.status), " for ", age(instance.since, "lasting")] : [words(node.status), " for ", age(node.since, "lasting")]],
      ["Why", node.why_waiting || machine.reason || node.reason],
      ["Silent", silent],
      ["Next try", node.next_at && !instance ? age(node.next_at, "due") : null],
      ["Given up", instance && ["provisioning", "bootstrapping"].includes(instance.status) && instance.deadline ? age(instance.deadline, "due") : null],
      ["Ends", instance?.status === "draining" && instance.deadline ? age(instance.deadline, "due") : null],
      ["In place of", old ? [h("code", {}, old.id), ` (${words(old.status)}${old.reason ? `, ${old.reason}` : ""})`] : null],
      ["Market", machine.market ? market(machine.market) : null],
      ["Type", instance ? `${instance.instance_type}, ${words(instance.lifecycle)}` : null],
      ["Price", instance ? `${usd(instance.usd_per_hour)}/h` : null],
      ["Age", instance ? age(instance.created_at, "lasting") : null],
      ["Address", machine.address ? `${machine.address}${machine.port && machine.port !== 22 ? `:${machine.port}` : ""}` : null],
      ["Last fault", machine.last_fault],
      ["Losses in a row", node.losses_in_a_row || null],
      ["Tasks", instance?.tasks?.length ? instance.tasks.slice(0, 6).map((id) => [link(taskHref(id), id), " "]) : null],
    ];
  }

  _offer(node, instance) {
    if (this._offered !== node.node) fill(this._more);
    this._offered = node.node;
    fill(this._buttons,
      instance ? h("button", { type: "button", onclick: () => this._why(instance.id) }, "Why?") : null,
      instance ? h("button", { type: "button", onclick: () => this._console(instance.id) }, "Set-up log") : null,
      this._page.may("submit") && instance?.status === "ready" ? h("button", { type: "button", onclick: () => run(this._pool, node.node) }, "Run here") : null,
      this._page.may("submit") && node.status !== "retired" ? h("button", { type: "button", class: "danger", onclick: () => drain(this._pool, node.node) }, "Drain") : null);
  }

  async _why(id) {
    fill(this._more, h("p", { class: "muted" }, "Reading…"));
    try {
      fill(this._more, oneWhy(await get(`/v1/explain/${encodeURIComponent(this._pool)}/instances/${encodeURIComponent(id)}`)));
    } catch (error) {
      fill(this._more, problem(error));
    }
  }

  async _console(id) {
    fill(this._more, h("p", { class: "muted" }, "Reading…"));
    try {
      const lines = await this._page.lines(`/v1/instances/${encodeURIComponent(id)}/console?tail=500`);
      const shown = h("pre", { class: "log", tabindex: "0", "aria-label": "Set-up log" });
      text(shown, lines.map((line) => line.text).join("\n") || "The set-up printed nothing.");
      fill(this._more, shown);
      shown.scrollTop = shown.scrollHeight;
    } catch (error) {
      fill(this._more, problem(error));
    }
  }
}
