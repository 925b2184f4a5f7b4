// What may be asked for: each with a dialog that says what will happen, and the operation's outcome shown.

import { get, submit } from "./api.js";
import { announce, fill, h, text } from "./dom.js";
import { problem, taskHref } from "./parts.js";

const TOASTS_MAX = 5;
const WAIT_S = 25; // of one question at the most; the first ones are shorter, to tell soon that something runs
const DONE_MS = 12_000; // then what went well needs no room any more
const PATIENCE_MS = 6 * 3_600_000; // then nobody looks at the message any more

/** Ask by a dialog. `fields` are labelled inputs; `send(values)` does it, and its error is shown in the dialog. */
function dialog({ title, lines, fields = [], confirm, danger = false, send }) {
  const inputs = fields.map(({ input }) => input);
  const wrong = h("div");
  const go = h("button", { type: "submit", class: danger ? "danger" : "primary" }, confirm);
  const close = () => {
    box.close();
    box.remove();
  };
  const form = h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      go.disabled = true;
      fill(wrong);
      try {
        await send(inputs.map((input) => input.value));
        close();
      } catch (error) {
        fill(wrong, problem(error));
        go.disabled = false;
      }
    },
  },
  h("h2", { id: "dialog-title" }, title),
  lines.map((line) => h("p", {}, line)),
  fields.map(({ label, input, hint }) => h("label", {}, h("span", {}, label), input, hint ? h("small", {}, hint) : null)),
  wrong,
  h("div", { class: "buttons" }, h("button", { type: "button", onclick: close }, "Cancel"), go));
  const box = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => box.remove() }, form);
  document.body.append(box);
  box.showModal();
  (inputs[0] ?? go).focus();
}

/** Submit a Request and show what becomes of it. */
async function ask(title, request, href = null) {
  const id = await submit(request);
  follow(id, title, href);
}

function follow(id, title, href) {
  const state = h("span", { class: "chip t-starting" }, "asked");
  const line = h("p", { class: "muted" });
  const log = h("ol", { class: "oplog" });
  const details = h("details", {}, h("summary", {}, "Log"), log);
  const toast = h("div", { class: "toast" },
    h("header", {}, state, href ? h("a", { href }, title) : h("b", {}, title), closing(() => toast)),
    line, details);
  shown(toast);
  watch(id, { toast, title, state, line, log });
}

/** Say something that nobody asked for, until it is closed. */
export function note(title, line) {
  const toast = h("div", { class: "toast" },
    h("header", {}, h("span", { class: "chip t-replacing" }, "note"), h("b", {}, title), closing(() => toast)), h("p", { class: "muted" }, line));
  shown(toast);
}

function closing(toast) {
  return h("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => toast().remove() }, "×");
}

function shown(toast) {
  const all = document.getElementById("toasts");
  all.prepend(toast);
  while (all.children.length > TOASTS_MAX) all.lastChild.remove();
}

/** Take a message away, unless somebody looks at it. */
function leave(toast) {
  setTimeout(() => {
    if (toast.matches(":hover, :focus-within") || toast.querySelector("details[open]")) leave(toast);
    else toast.remove();
  }, DONE_MS);
}

const OPERATION = {
  pending: ["waiting", "asked"], running: ["starting", "running"], success: ["ready", "done"], failed: ["bad", "failed"],
};

async function watch(id, { toast, title, state, line, log }) {
  const until = Date.now() + PATIENCE_MS;
  let wait = 0;
  while (toast.isConnected && Date.now() < until) {
    let operation;
    try {
      operation = await get(`/v1/operations/${encodeURIComponent(id)}?wait=${wait}`);
    } catch (error) {
      if (error.status >= 400 && error.status < 500 && error.status !== 429) {
        text(line, error.message);
        return;
      }
      text(line, `${error.message}: tried again`);
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      continue;
    }
    const [tone, word] = OPERATION[operation.status] ?? ["waiting", operation.status];
    state.setAttribute("class", `chip t-${tone}`);
    text(state, word);
    const entries = operation.log ?? [];
    fill(log, entries.map((entry) => h("li", { class: `l-${entry.level}` }, entry.message)));
    const last = entries.at(-1);
    text(line, operation.reason || (last ? last.message : ""));
    if (operation.status === "success" || operation.status === "failed") {
      announce(`${title}: ${word}`);
      if (operation.status === "success") leave(toast);
      return;
    }
    wait = Math.min(WAIT_S, 2 * wait || 1);
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

export function resize(pool) {
  const input = h("input", { type: "number", min: "0", max: "20000", step: "1", required: true, value: String(pool.desired) });
  dialog({
    title: `Resize ${pool.name}`,
    lines: ["More nodes are ordered at once. Of fewer, those with the highest numbers go, idle ones first; their tasks run again elsewhere."],
    fields: [{ label: "Nodes", input, hint: `now ${pool.desired}, of which ${pool.ready} are ready` }],
    confirm: "Resize",
    send: ([nodes]) => ask(`Resize ${pool.name} to ${Number(nodes)}`, { kind: "pool_resize_requested", pool: pool.name, nodes: Number(nodes) }),
  });
}

export function pause(pool, paused) {
  dialog({
    title: `${paused ? "Pause" : "Resume"} ${pool.name}`,
    lines: [paused
      ? "Nothing is launched and no task is started until it is resumed. What runs goes on, and costs what it costs."
      : "Machines are ordered and tasks are started again."],
    confirm: paused ? "Pause" : "Resume",
    send: () => ask(`${paused ? "Pause" : "Resume"} ${pool.name}`, { kind: "pool_pause_requested", pool: pool.name, paused }),
  });
}

export function drain(pool, node) {
  const input = h("select", {}, h("option", { value: "replace" }, "replaced by another machine"), h("option", { value: "remove" }, "removed: the pool gets smaller"));
  dialog({
    title: `Drain node ${node} of ${pool}`,
    lines: ["Its tasks may end within the pool's drain timeout, new ones go elsewhere. Then its machine is ended."],
    fields: [{ label: "Then the node is", input }],
    confirm: "Drain",
    danger: true,
    send: ([then]) => ask(`Drain node ${node} of ${pool}`, { kind: "drain_requested", pool, node, then }),
  });
}

export function stopTask(task) {
  dialog({
    title: `Stop ${task.name || task.id}`,
    lines: ["It is told to end, killed after its grace period, and not run again."],
    confirm: "Stop it",
    danger: true,
    send: () => ask(`Stop ${task.name || task.id}`, { kind: "task_stop_requested", pool: task.pool, task_id: task.id }, taskHref(task.id)),
  });
}

export function run(pool, node = null) {
  const command = h("textarea", { rows: "3", required: true, spellcheck: "false", autocapitalize: "off", placeholder: "python3 train.py --epochs 3" });
  const name = h("input", { type: "text", maxlength: "128", autocapitalize: "off" });
  dialog({
    title: node === null ? `Run a command in ${pool}` : `Run a command on node ${node} of ${pool}`,
    lines: ["It runs once, by /bin/sh, on the first node with a free slot."].slice(node === null ? 0 : 1),
    fields: [{ label: "Command", input: command }, { label: "Name", input: name, hint: "optional: what lists and events call it" }],
    confirm: "Run",
    send: async ([shell, called]) => {
      const task = { shell, ...(called.trim() ? { name: called.trim() } : {}), ...(node === null ? {} : { node }) };
      const id = await submit({ kind: "task_requested", pool, task });
      follow(id, `Run ${called.trim() || "a command"} in ${pool}`, taskHref(id));
      location.hash = taskHref(id);
    },
  });
}

/** Ask for a token. `why` says what was wrong with the last; `door`: the port of `everpool dashboard` lets in one only. */
export function askToken({ why, door, use, forget }) {
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", "aria-label": "Token", placeholder: door ? "http://127.0.0.1:…/#token=…" : "Token" });
  return h("form", {
    class: "login panel",
    onsubmit: (event) => {
      event.preventDefault();
      if (input.value.trim()) use(input.value);
      else input.focus();
    },
  },
  h("h1", {}, door ? "Open the printed address" : "Who is looking?"),
  why ? h("p", { class: "problem", role: "alert" }, why) : null,
  h("p", { class: "muted" }, door
    ? ["Behind this port is ", h("code", {}, "everpool dashboard"), ". No token has to be made: open the whole address that it printed last, or paste it here. It is good until the command ends."]
    : ["Show a token of this daemon. It is kept for this tab only. ", h("code", {}, "everpool token create NAME"), " makes one; scope ", h("code", {}, "read"), " looks, ", h("code", {}, "submit"), " may act."]),
  h("div", { class: "row" }, input, h("button", { type: "submit", class: "primary" }, "Look")),
  forget ? h("p", {}, h("button", { type: "button", class: "linklike", onclick: forget }, "Forget the token of this tab")) : null);
}
