// Events as lines for people.

import { count, lasting, usd, words } from "./format.js";

const dollars = (micro) => usd(micro / 1e6);
const machine = (event) => event.instance?.instance?.id ?? event.instance?.id ?? event.instance_id ?? "";
const rank = (event) => event.instance?.node ?? event.node_id;
const onNode = (event) => (rank(event) === undefined || rank(event) === null ? "" : ` for node ${rank(event)}`);
const by = (envelope) => (envelope.principal ? ` by ${envelope.principal}` : "");
const because = (reason) => (reason ? `: ${reason}` : "");
const command = (task) => task?.name || task?.shell || (task?.argv ?? []).join(" ");

const TOLD = {
  pool_requested: (e, v) => ["info", `pool ${e.pool} asked for${by(v)}`],
  pool_ready: (e) => ["good", `pool is ready: ${count(e.nodes, "node")}`],
  pool_resize_requested: (e, v) => ["info", `resize to ${count(e.nodes, "node")} asked for${by(v)}`],
  pool_resized: (e) =>
    e.superseded ? ["info", `resize overtaken by one to ${count(e.nodes, "node")}`] : ["good", `resized to ${count(e.nodes, "node")}`],
  pool_update_requested: (e, v) => ["info", `another spec asked for${by(v)}`],
  pool_updated: (e) => ["good", `spec updated${because(e.changed.join(", "))}${e.outdated ? `: ${count(e.outdated, "machine")} to be replaced` : ""}`],
  pool_rolled: (e) => ["good", `every machine is of the new spec: ${count(e.renewed, "machine")} replaced`],
  pool_parked: (e) => ["bad", `pool parked${because(e.reason)}`],
  pool_pause_requested: (e, v) => ["info", `${e.paused ? "pause" : "resume"} asked for${by(v)}`],
  pool_paused: () => ["warn", "paused: nothing is launched or started"],
  pool_resumed: () => ["good", "resumed"],
  pool_scaled: (e) => ["info", `scaled from ${e.before} to ${count(e.nodes, "node")}${because(e.why)}`],
  budget_warned: (e) => ["warn", `${dollars(e.spent_micro_usd)} of ${dollars(e.limit_micro_usd)} spent (${e.period})`],
  budget_reached: (e) => ["bad", `budget reached: ${dollars(e.spent_micro_usd)} of ${dollars(e.limit_micro_usd)} (${e.period}), then ${e.then}`],
  budget_freed: () => ["good", "may spend again"],
  shutdown_requested: (e, v) => ["info", `shutdown asked for${by(v)}`],
  cluster_destroyed: (e) => ["info", `nothing of ${e.cluster_id} is left`],
  instance_requested: (e) => ["quiet", `machine asked for, for node ${e.node_id}${e.replacing ? ` in place of ${e.replacing}` : ""}`],
  instance_launched: (e) => ["info", `${machine(e)} launched at ${e.provider}${onNode(e)}${because(e.why)}`],
  instance_running: (e) => ["quiet", `${machine(e)} has an address`],
  instance_provisioned: (e) => ["quiet", `connected to ${machine(e)}`],
  instance_bootstrapped: (e) => ["good", `${machine(e)} is set up${onNode(e)}`],
  instance_preempted: (e) => ["warn", `${machine(e)} is being taken${onNode(e)}${because(e.reason)}`],
  notice_withdrawn: (e) => ["good", `notice of ${machine(e)} withdrawn`],
  instance_replaced: (e) => ["good", `${e.new.instance.id} fills node ${e.new.node} in place of ${e.old_id}`],
  instance_destroyed: (e) => ["info", `${machine(e)} is gone${e.reason === "gone" ? "" : because(e.reason)}${e.cost_micro_usd ? `, cost ${dollars(e.cost_micro_usd)}` : ""}`],
  launch_refused: (e) => ["warn", `launch in ${e.market} refused (${e.fault})${because(e.detail)}`],
  instance_adopted: (e) => ["info", `${machine(e)} adopted`],
  instance_quarantined: (e) => ["warn", `unknown machine ${e.ref} at ${e.provider} in quarantine, ${dollars(e.micro_usd_per_hour)}/h`],
  instance_reaped: (e) => ["info", `unknown machine ${e.ref} at ${e.provider} is gone`],
  leftover_found: (e) => ["warn", `leftover ${words(e.leftover)} ${e.ref} found at ${e.provider}`],
  leftover_removed: (e) => ["info", `leftover ${words(e.leftover)} ${e.ref} removed at ${e.provider}`],
  cluster_requested: (e) => ["quiet", `network and keys at ${e.provider} asked for`],
  cluster_provisioned: (e) => ["quiet", `network and keys at ${e.provider} are there`],
  cluster_ready: (e) => ["good", `all of ${e.cluster.id} is ready`],
  bootstrap_requested: (e) => ["quiet", `${machine(e)} is to be set up`],
  drain_requested: (e, v) => ["info", `drain of node ${e.node} asked for, then ${e.then}${by(v)}`],
  bootstrap_phase: (e) => [e.event === "failed" ? "warn" : "quiet", `${machine(e)}: set-up step ${e.phase} ${e.event}${because(e.error)}`],
  bootstrap_command: (e) => ["quiet", `${machine(e)} runs ${e.command}`],
  bootstrap_failed: (e) => ["bad", `set-up of ${machine(e)} failed in ${e.phase}${because(e.error)}`],
  task_requested: (e, v) => ["info", `task ${v.request_id} asked for${because(command(e.task))}${by(v)}`],
  task_stop_requested: (e, v) => ["info", `stop of task ${e.task_id} asked for${by(v)}`],
  task_queued: (e) => ["quiet", `task ${e.task_id} waits for a slot${e.attempt > 1 ? ` (attempt ${e.attempt})` : ""}`],
  task_started: (e) => ["info", `${e.function_name || "task"} runs on node ${rank(e)}: ${e.task_id}${e.attempt > 1 ? ` (attempt ${e.attempt})` : ""}`],
  task_attempt_ended: (e) => [e.result === "success" ? "quiet" : "warn", `attempt ${e.attempt} of ${e.task_id} ended: ${words(e.result)}${e.reason ? ` (${e.reason})` : ""}`],
  task_completed: (e) =>
    e.success
      ? ["good", `${e.function_name || "task"} done in ${lasting(e.duration)}: ${e.task_id}`]
      : ["bad", `${e.function_name || "task"} ${e.task_id}: ${e.error || [words(e.result), e.reason].filter(Boolean).join(" ")}`],
  error: (e) => [e.fatal ? "bad" : "warn", e.message],
  bug_caught: (e) => ["bad", `bug in ${e.address}: ${e.error}`],
  webhook_failing: (e) => ["warn", `webhook ${e.webhook} does not take events${because(e.error)}`],
  webhook_recovered: (e) => ["good", `webhook ${e.webhook} takes events again`],
  webhook_removed: (e) => [e.dropped || e.replies ? "warn" : "info", `webhook ${e.webhook} taken away; ${e.dropped ?? "?"} events and ${e.replies} replies were never sent`],
  token_created: (e, v) => ["info", `token ${e.name} (${e.scope}) created${by(v)}`],
  token_revoked: (e, v) => ["info", `token ${e.name} revoked${by(v)}`],
  config_reloaded: (e, v) => ["info", `config read again${by(v)}${because(e.plan.slice(0, 3).join("; "))}`],
  administered: (e, v) => ["info", `${e.action}${by(v)}${because(e.detail)}`],
};

export const LEVELS = { good: "ok", bad: "error", warn: "warning", info: "info", quiet: "detail" };

/** An event's level and line. One that this page does not know is told by its kind. */
export function told(envelope) {
  const { event } = envelope;
  const teller = TOLD[event.kind];
  if (teller) {
    try {
      const [level, line] = teller(event, envelope);
      return { level, line: String(line) };
    } catch {
      // it has another shape than this page knows: its kind has to do
    }
  }
  return { level: "info", line: `${words(event.kind)}${by(envelope)}` };
}

export const KINDS = Object.keys(TOLD).sort();
