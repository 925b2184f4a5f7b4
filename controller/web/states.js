// What states mean to people. Each has a word, a letter and a shape besides its colour.

/** States of nodes as the grid shows them, the worst last. */
export const NODE_STATES = {
  ready: { word: "ready", letter: "", told: "works" },
  starting: { word: "starting", letter: "S", told: "its machine is ordered, started or set up" },
  replacing: { word: "replacing", letter: "R", told: "its machine is being taken, another one is on its way" },
  draining: { word: "draining", letter: "D", told: "its machine takes no new tasks and ends soon" },
  waiting: { word: "waiting", letter: "W", told: "has no machine, none could be ordered yet" },
  silent: { word: "silent", letter: "!", told: "its machine does not answer" },
  ending: { word: "ending", letter: "E", told: "its machine is being ended" },
  retired: { word: "retired", letter: "–", told: "no machine is kept for it: the pool is smaller now, or its budget is reached" },
};

/** The state of a node, from its own view and that of the instance that fills it, or will. */
export function nodeState(node, instance) {
  if (node.status === "retired") return "retired";
  if (node.status === "replacing") return "replacing";
  switch (instance?.status ?? node.instance_status) {
    case "requested":
    case "provisioning":
    case "bootstrapping":
      return "starting";
    case "ready":
      return instance?.silent_since ? "silent" : "ready";
    case "draining":
      return "draining";
    case "destroying":
      return "ending";
    default:
      return "waiting";
  }
}

const POOL_TONES = {
  requesting: "starting",
  provisioning: "starting",
  ready: "ready",
  degraded: "replacing",
  short: "bad",
  unhealthy: "bad",
  parked: "bad",
  paused: "draining",
  draining: "draining",
  destroyed: "waiting",
};

/** The word for how a pool is, and its tone. A pause is said first: it is why nothing happens. */
export function poolState(pool) {
  const word = isPaused(pool) && pool.status !== "destroyed" ? "paused" : pool.status;
  return { word, tone: POOL_TONES[word] ?? "waiting" };
}

const TROUBLE = ["parked", "short", "unhealthy", "degraded", "requesting"];

/** Pools as they are to be looked at: those in trouble first, the worst of them before others; then by name. */
export function troubleFirst(pools) {
  const rank = (pool) => [...TROUBLE, poolState(pool).word].indexOf(poolState(pool).word);
  return [...pools].sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
}

/** The tone of what is said of how a pool is: machines of an older spec that stay are no good news. */
export function howTone(pool) {
  const tone = poolState(pool).tone;
  const stands = pool.outdated > 0 && String(pool.reason).includes("not replaced yet");
  return stands && (tone === "ready" || tone === "starting") ? "replacing" : tone;
}

export function isPaused(pool) {
  return pool.status === "paused" || Boolean(pool.paused);
}

const TASK_TONES = {
  pending: "waiting",
  assigned: "starting",
  created: "starting",
  running: "running",
  stopping: "draining",
  invalid: "replacing",
};

/** The word for how a task is, or was, and its tone. */
export function taskState(task) {
  if (task.status !== "stopped") return { word: task.status, tone: TASK_TONES[task.status] ?? "waiting" };
  if (task.result === "success") return { word: "success", tone: "ready" };
  if (task.result === "terminated" || task.result === "killed") return { word: task.result, tone: "draining" };
  return { word: (task.result ?? "stopped").replaceAll("_", " "), tone: "bad" };
}

export const TASK_FILTERS = [
  ["", "All"],
  ["living", "Living"],
  ["pending", "Pending"],
  ["running", "Running"],
  ["stopped", "Ended"],
];
