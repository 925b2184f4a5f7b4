// The API, asked with the token of whoever looks.

import { serverDate } from "./format.js";

const KEY = "everpool.token";
const DOOR = "X-Everpool-Door"; // said by the port of `everpool dashboard`, which knows one token only
const PAGE = 10_000; // of one list
const PAGES_MAX = 10;

/**
 * An answer that is no success; `message` is the API's own line. `cursor`: where to go on after a 410, as what was
 * asked for is forgotten, or is not there in this journal.
 */
export class ApiError extends Error {
  constructor(status, message, detail = [], headers = new Headers()) {
    super(message);
    this.status = status;
    this.detail = detail;
    this.door = headers.has(DOOR);
    this.retryAfter = headers.get("Retry-After");
    this.cursor = status === 410 && headers.has("X-Everpool-Cursor") ? Number(headers.get("X-Everpool-Cursor")) : null;
  }
}

let token = "";
let onDenied = () => {};

/** Take the token out of the address bar, or from this tab's storage. Returns what is left of the fragment. */
export function takeToken() {
  const fragment = location.hash.slice(1);
  const found = /(?:^|&)token=([^&]*)/.exec(fragment);
  let rest = fragment;
  if (found) {
    rest = fragment.replace(found[0], "").replace(/^&/, "");
    keepToken(decoded(found[1]));
    history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
  } else {
    try {
      token = sessionStorage.getItem(KEY) ?? "";
    } catch {
      token = "";
    }
  }
  return rest;
}

export function keepToken(value) {
  token = value.trim();
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch {
    // storage is forbidden: the token lives as long as the page
  }
}

/** The token in what somebody pasted: it itself, or the page's whole address with it. */
export function tokenIn(pasted) {
  const found = /#(?:.*&)?token=([^&]*)/.exec(pasted.trim());
  return found ? decoded(found[1]) : pasted;
}

function decoded(value) {
  try {
    return decodeURIComponent(value);
  } catch {
    return value; // it holds a bare %: then it is meant as it stands
  }
}

/** Whether the page came through the port of `everpool dashboard`. */
export async function isDoor() {
  try {
    return (await fetch("/v1/whoami", { cache: "no-store", credentials: "omit" })).headers.has(DOOR);
  } catch {
    return false;
  }
}

export function hasToken() {
  return token !== "";
}

/** Say what happens when the API does not know the token. */
export function whenDenied(handler) {
  onDenied = handler;
}

export async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...(options.headers ?? {}) };
  if (token) headers.Authorization = `Bearer ${token}`;
  const shown = token;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the daemon does not answer");
  }
  serverDate(answer.headers.get("Date"));
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (answer.status === 401 && shown === token) onDenied(problem);
  throw problem;
}

async function problemOf(answer) {
  let message = `${answer.status} ${answer.statusText}`.trim();
  let detail = [];
  try {
    const body = await answer.json();
    if (typeof body.error === "string") message = body.error;
    if (Array.isArray(body.detail)) detail = body.detail.map(String);
  } catch {
    // not the API's own answer: its status has to do
  }
  return new ApiError(answer.status, message, detail, answer.headers);
}

export async function get(path, options = {}) {
  return (await ask(path, options)).json();
}

/** A whole list, page by page where it has more than one. */
export async function list(path, options = {}) {
  const found = [];
  let after = null;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const answer = await ask(query(path, { limit: PAGE, after }), options);
    found.push(...(await answer.json()));
    after = answer.headers.get("X-Everpool-Cursor");
    if (!after) break;
  }
  return found;
}

export function query(path, wanted) {
  const parts = Object.entries(wanted)
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
  if (!parts.length) return path;
  return `${path}${path.includes("?") ? "&" : "?"}${parts.join("&")}`;
}

/** Submit one Request. Its id is ours, so that it may be sent again without harm. */
export async function submit(request) {
  const named = { request_id: newId(), ...request };
  const answer = await ask("/v1/messages", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(named),
  });
  return (await answer.json()).request_id ?? named.request_id;
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** The lines of an answer that goes on, parsed; `beat` is called for whatever comes, keep-alives too. */
export async function* lines(path, { signal, beat = () => {} } = {}) {
  const answer = await ask(path, { signal, headers: { Accept: "application/x-ndjson" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      beat();
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      const found = parts.filter((part) => part.trim()).map((part) => JSON.parse(part));
      if (found.length) yield found;
    }
    if (rest.trim()) yield [JSON.parse(rest)];
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The newest seq there is. */
export async function newestSeq(signal) {
  const answer = await ask("/v1/events?tail=0&limit=1", { signal });
  await answer.arrayBuffer();
  return Number(answer.headers.get("X-Everpool-Cursor") ?? 0);
}

/** Events behind `after`, at most `limit`. Those that are forgotten are passed over. */
export async function keptEvents(after, limit, wanted = {}, signal = undefined) {
  try {
    return await events(after, limit, wanted, signal);
  } catch (error) {
    if (error.cursor === null || error.cursor === undefined || error.cursor === after) throw error;
    return events(error.cursor, limit, wanted, signal);
  }
}

/** Events behind `after`, at most `limit`; an ApiError with a cursor where some of them are forgotten. */
export async function events(after, limit, wanted = {}, signal = undefined) {
  const path = query("/v1/events", { after, limit, ...wanted });
  const answer = await ask(path, { signal, headers: { Accept: "application/x-ndjson" } });
  const body = await answer.text();
  const rows = body.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  const cursor = Number(answer.headers.get("X-Everpool-Cursor") ?? rows.at(-1)?.seq ?? after);
  return { rows, cursor, more: rows.length >= limit };
}

/** The seq before the first event that is younger than `at`: found by halving, as events are in order. */
export async function seqAt(at, newest, signal) {
  let low = 0;
  let high = newest;
  while (high - low > 200) {
    const middle = Math.floor((low + high) / 2);
    try {
      const { rows } = await events(middle, 1, {}, signal);
      if (rows.length && rows[0].at < at) low = rows[0].seq;
      else high = middle;
    } catch (error) {
      if (!(error.cursor > low)) throw error;
      low = Math.min(error.cursor, high); // all before is forgotten
    }
  }
  return low;
}
