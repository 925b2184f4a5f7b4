// Numbers, money and times as people read them.

const numbers = new Intl.NumberFormat("en-US");

export function count(n, noun, plural = `${noun}s`) {
  return `${numbers.format(n)} ${n === 1 ? noun : plural}`;
}

export function number(n) {
  return numbers.format(n);
}

/** Dollars: cents above one dollar, three figures that count below. */
export function usd(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 10_000) return `$${numbers.format(Math.round(value))}`;
  if (size >= 1 || size === 0) {
    return `$${value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  }
  if (size < 0.0001) return "<$0.0001";
  return `$${value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: size < 0.01 ? 4 : 3 })}`;
}

/** A length of time in its two greatest units: 3 d 4 h, 2 min 5 s, 0.4 s. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, seconds);
  if (s > 0 && s < 0.1) return "<0.1 s";
  if (s < 10) return `${s < 1 && s > 0 ? s.toFixed(1) : Math.floor(s)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return join(Math.floor(s / 60), "min", Math.floor(s % 60), "s", s < 600);
  if (s < 86_400) return join(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min", true);
  return join(Math.floor(s / 86_400), "d", Math.floor((s % 86_400) / 3600), "h", s < 864_000);
}

function join(great, unit, small, smaller, both) {
  return both && small ? `${great} ${unit} ${small} ${smaller}` : `${great} ${unit}`;
}

/** The daemon's clock, as far as its answers tell; the browser's may be wrong. */
let ahead = 0;
export function now() {
  return Date.now() / 1000 + ahead;
}
export function serverDate(header) {
  const at = header ? Date.parse(header) / 1000 : NaN;
  if (!Number.isFinite(at)) return;
  const off = at - Date.now() / 1000;
  ahead = Math.abs(off) < 5 ? 0 : off; // the header counts whole seconds
}

export function ago(at) {
  return at ? `${lasting(now() - at)} ago` : "–";
}

/** Something to come: in 3 min; or what was due. */
export function due(at) {
  if (!at) return "";
  const left = at - now();
  return left > 0.5 ? `in ${lasting(left)}` : "now";
}

const hours = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const days = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const whole = new Intl.DateTimeFormat("en-GB", {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
  timeZoneName: "short",
});

/** 14:03:22, with the day when it was not today. */
export function clock(at) {
  if (!at) return "–";
  const date = new Date(at * 1000);
  const today = new Date(now() * 1000).toDateString() === date.toDateString();
  return today ? hours.format(date) : `${days.format(date)} ${hours.format(date)}`;
}

export function moment(at) {
  return at ? whole.format(new Date(at * 1000)) : "";
}

/** Numbers of nodes: 1, 2, 5–9. */
export function ranks(nodes, most = 8) {
  const sorted = [...nodes].sort((a, b) => a - b);
  const runs = [];
  for (const node of sorted) {
    const last = runs.at(-1);
    if (last && node === last[1] + 1) last[1] = node;
    else runs.push([node, node]);
  }
  const told = runs.slice(0, most).map(([a, b]) => (a === b ? `${a}` : b === a + 1 ? `${a}, ${b}` : `${a}–${b}`));
  return runs.length > most ? `${told.join(", ")} and more` : told.join(", ");
}

export function words(kind) {
  return kind.replaceAll("_", " ");
}
