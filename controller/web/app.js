// The page: who looks, where one is, and what is live.

import { askToken, note } from "./actions.js";
import { get, hasToken, isDoor, keepToken, lines, takeToken, tokenIn, whenDenied } from "./api.js";
import { announce, fill, h, text } from "./dom.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { empty, tick } from "./parts.js";
import { Store } from "./store.js";
import { eventsView } from "./views/events.js";
import { overview } from "./views/overview.js";
import { poolView } from "./views/pool.js";
import { taskView } from "./views/task.js";
import { tasksView } from "./views/tasks.js";

const RECENT_MAX = 2_000;
const SCOPES = ["read", "submit", "admin"];
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const identity = document.getElementById("identity");

/** What views use. */
class Page {
  constructor() {
    this.store = new Store();
    this.history = new History();
    this.recent = []; // envelopes, oldest first
    this.scope = null;
    this._listening = new Set();
    this._pending = [];
    this._marked = new Set();
    this._later = [];
  }

  /** Whether who looks may do what needs this scope. */
  may(scope) {
    return SCOPES.indexOf(this.scope) >= SCOPES.indexOf(scope);
  }

  onEvents(told) {
    this._listening.add(told);
    return () => this._listening.delete(told);
  }

  heard(envelopes) {
    this.recent.push(...envelopes);
    if (this.recent.length > RECENT_MAX) this.recent.splice(0, this.recent.length - RECENT_MAX);
    this.store.heard(envelopes);
    this.history.heard(envelopes);
    if (!this._pending.length) requestAnimationFrame(() => this._tell());
    this._pending.push(...envelopes);
  }

  _tell() {
    const some = this._pending;
    this._pending = [];
    for (const told of [...this._listening]) told(some);
  }

  /** The first time that something can be seen is measured; what can wait begins then. */
  painted(what) {
    if (!this._marked.has(what)) {
      this._marked.add(what);
      requestAnimationFrame(() => setTimeout(() => performance.mark(`everpool:${what}`)));
    }
    const waiting = this._later;
    this._later = null;
    for (const doing of waiting ?? []) this.later(doing);
  }

  /** Do something once the view is there; its failure only means that a chart stays away. */
  later(doing) {
    if (this._later) this._later.push(doing);
    else setTimeout(() => doing().catch(() => {}), 30);
  }

  async lines(path) {
    const found = [];
    for await (const some of lines(path)) found.push(...some);
    return found;
  }

  forget() {
    this.store.clear();
    this.history = new History();
    this.recent = [];
    this.scope = null;
  }
}

const page = new Page();
let view = null;

// --- where one is ---------------------------------------------------------------------------------

function show() {
  const [path, search = ""] = location.hash.replace(/^#/, "").split("?");
  let parts;
  try {
    parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    parts = ["?"];
  }
  view?.end();
  view = viewOf(parts, new URLSearchParams(search));
  document.title = view.title === "Pools" ? "everpool" : `${view.title} – everpool`;
  for (const one of document.querySelectorAll("[data-nav]")) {
    if (one.dataset.nav === view.nav) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  main.replaceChildren(view.element);
}

function viewOf([first, name, nodes, node], wanted) {
  if (first === undefined || (first === "pools" && name === undefined)) return overview(page);
  if (first === "pools") return poolView(page, name, nodes === "nodes" && /^\d+$/.test(node ?? "") ? Number(node) : null);
  if (first === "tasks") return tasksView(page, wanted);
  if (first === "task" && name !== undefined) return taskView(page, name);
  if (first === "events") return eventsView(page, wanted);
  return { title: "Not found", nav: "", element: h("div", {}, h("h1", {}, "Not found"), empty("There is no such page. ", h("a", { href: "#/" }, "All pools"))), end() {} };
}

// --- who looks ------------------------------------------------------------------------------------

let asked = false;

function login(why, door = false) {
  live.stop("denied");
  view?.end();
  view = null;
  asked = true;
  const form = askToken({ why, door, use, forget: hasToken() ? () => use("") : null });
  document.title = "everpool";
  main.replaceChildren(form);
  form.querySelector("input").focus();
  text(identity, "No token");
}

function use(token) {
  asked = false;
  keepToken(tokenIn(token));
  live.stop("connecting");
  live.seq = null;
  page.forget();
  begin();
}

async function begin() {
  fill(main, h("p", { class: "muted" }, "Reading…"));
  live.start();
  const known = whoami(); // beside the first view: what may be done is offered when it is known
  show();
  await known;
}

async function whoami() {
  let me = { name: "", scope: "read" };
  try {
    me = await get("/v1/whoami");
  } catch (error) {
    if (error.status === 401) return;
    if (error.status === 0) {
      setTimeout(whoami, 3_000);
      return;
    }
  }
  page.scope = me.scope;
  fill(identity, h("span", { class: "name" }, `${me.name || "Anybody"} · `), page.may("submit") ? me.scope : "read only");
  identity.setAttribute("title", page.may("submit") ? "May act. Show another token" : "May look, not act. Show another token");
  if (view && page.may("submit")) show();
}

// --- what is live ---------------------------------------------------------------------------------

const WORDS = {
  connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", waiting: "Not connected", paused: "Paused", denied: "Not let in",
};
let nextTry = 0;

function connectionText() {
  const left = Math.max(0, Math.ceil((nextTry - Date.now()) / 1000));
  return live.state === "waiting" && left > 0 ? `Not connected, again in ${left} s` : WORDS[live.state];
}

const live = new Live({
  onEvents: (envelopes) => page.heard(envelopes),
  onState(word, at) {
    nextTry = at ?? 0;
    const before = connection.dataset.state;
    connection.dataset.state = word;
    text(connection, connectionText());
    if (word !== before && (word === "waiting" || (word === "live" && before !== "connecting"))) announce(WORDS[word]);
  },
  onConnected: () => page.store.touchAll(),
  onMissed(isOther) {
    if (isOther) note("Another journal", "The daemon has another journal now, such as a restored backup. Everything is read again.");
    else note("Events are missing", "Some of what happened while this page was not connected is forgotten already. What is there now is read again.");
    page.history = new History();
    if (isOther) page.recent = [];
    if (view) show();
  },
});

connection.addEventListener("click", () => live.retry());
identity.addEventListener("click", async () => login("", await isDoor()));
whenDenied((error) => {
  if (!asked) login(hasToken() ? error.message : "", error.door);
});
document.addEventListener("visibilitychange", () => {
  if (asked) return;
  if (document.hidden) live.stop("paused");
  else live.start();
});
setInterval(() => {
  if (document.hidden) return;
  tick();
  text(connection, connectionText());
}, 1_000);

// --- colours --------------------------------------------------------------------------------------

const THEMES = ["", "light", "dark"];
const THEME_WORDS = { "": ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };
const theme = document.getElementById("theme");

function shownTheme() {
  const [word, told] = THEME_WORDS[document.documentElement.dataset.theme ?? ""];
  text(theme, word);
  theme.setAttribute("aria-label", `Colours: ${told}`);
}

theme.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  try {
    if (next) localStorage.setItem("everpool.theme", next);
    else localStorage.removeItem("everpool.theme");
  } catch {
    // it holds until the page is left
  }
  shownTheme();
  document.dispatchEvent(new Event("everpool-theme"));
});

// --- begin ----------------------------------------------------------------------------------------

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => {
  if (/(?:^#|&)token=/.test(location.hash)) {
    takeToken();
    use(sessionStorage.getItem("everpool.token") ?? "");
    return;
  }
  if (asked) return;
  show();
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
});
shownTheme();
takeToken();
begin();
