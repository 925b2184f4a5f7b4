"""Events in words: a level and one sentence for each, shared by the API's logs and the command line."""

import signal
from collections.abc import Sequence
from typing import Literal

from actors import events as e
from actors.events import Envelope, Event, NodeInstance
from controller.telling import count, took
from providers.model import MICRO

Level = Literal["DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR"]
Told = tuple[Level, str]

# Ends of a request that somebody asked for, and that are no failure of anything.
CALLED_OFF = ("cancelled", "superseded", "already done")
WORDS_MAX = 500  # letters of what a provider, a script or a rule said


def told(envelope: Envelope) -> Told:
    """An event as one sentence, without a full stop, and how much it matters."""
    event = envelope.event
    level, text = (
        _of_request(event)
        or _of_pool(event)
        or _of_machine(event)
        or _of_task(event)
        or _of_daemon(event)
        or ("INFO", event.kind.replace("_", " "))  # telemetry
    )
    who = f" (asked by {envelope.principal})" if envelope.principal else ""
    return level, one_line(text) + who


def one_line(text: str, most: int = WORDS_MAX) -> str:
    """Text without line breaks and control characters, cut where it is much too long."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    shown = " ".join(shown.split())
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def failed(event: Event, kind: str) -> bool:
    """Whether a terminal Fact means that what a Request of this kind asked for did not come to be."""
    match event:
        case e.TaskCompleted(success=success):
            return not success and kind != "task_stop_requested"  # which asks for just that
        case e.Error() | e.BootstrapFailed():
            return True
        case _:
            return False


def reason(event: Event) -> str:
    """Why it did not."""
    match event:
        case e.TaskCompleted():
            return event.error or ended_how(event.result, event.reason)
        case e.Error(message=message):
            return message
        case e.BootstrapFailed(phase=phase, error=error):
            return f"{phase}: {error}"
        case _:
            return ""


def ended_how(result: str, reason: str, exit_code: int | None = None, number: int | None = None) -> str:
    """How one run of a task ended: failure, exit code 3; or killed (oom), SIGKILL."""
    because = f" ({reason})" if reason else ""
    return f"{outcome(result)}{because}{_code(exit_code, number)}"


def outcome(result: str) -> str:
    """How a task ended, in words."""
    return result.replace("_", " ")


def signalled(number: int) -> str:
    """A signal by its name, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def called_off(event: Event) -> bool:
    """Whether a request ended because of another that somebody sent, which is no failure."""
    return isinstance(event, e.Error) and event.message.startswith(CALLED_OFF)


def _machine(one: NodeInstance) -> str:
    return one.instance.id


def _dollars(micro: int) -> str:
    usd = micro / MICRO
    return f"${usd:,.2f}" if usd == 0 or abs(usd) >= 0.01 else f"${usd:.6f}"


def _why(text: str | None) -> str:
    return f": {text}" if text else ""


def _code(exit_code: int | None, number: int | None = None) -> str:
    if number is not None:
        return f", {signalled(number)}"
    return f", exit code {exit_code}" if exit_code else ""


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _of_request(event: Event) -> Told | None:
    match event:
        case e.PoolRequested(spec=spec):
            places = ", ".join(spec.provider)
            text = f"a pool of {count(spec.nodes.desired, 'node')} is asked for, at {places}"
        case e.ClusterRequested(provider=provider):
            text = f"a cluster at {provider} is asked for"
        case e.InstanceRequested(node_id=node, replacing=old):
            text = f"node {node} asks for a machine" + (f", to replace {old}" if old else "")
        case e.BootstrapRequested(instance=one):
            text = f"{_machine(one)} is to be set up"
        case e.ShutdownRequested():
            text = "the pool is to end"
        case e.PoolResizeRequested(nodes=nodes):
            text = f"a size of {count(nodes, 'node')} is asked for"
        case e.PoolUpdateRequested():
            text = "another spec is asked for"
        case e.PoolPauseRequested(paused=paused):
            text = "a pause is asked for" if paused else "the end of the pause is asked for"
        case e.DrainRequested(node=node, then=then):
            text = f"node {node} is to be emptied and {'removed' if then == 'remove' else 'replaced'}"
        case e.TaskRequested(task=task, request_id=name):
            text = f"task {name} ({one_line(task.title, 80)}) is asked for"
        case e.TaskStopRequested(task_id=name):
            text = f"task {name} is to stop"
        case _:
            return None
    return "INFO", text


def _of_pool(event: Event) -> Told | None:
    match event:
        case e.ClusterProvisioned(cluster_id=name, provider=provider):
            return "INFO", f"what machines at {provider} need is there: cluster {name}"
        case e.ClusterReady(cluster=cluster):
            return "SUCCESS", f"cluster {cluster.id} is ready"
        case e.ClusterDestroyed(cluster_id=name):
            return "INFO", f"nothing is left of cluster {name}"
        case e.PoolReady(nodes=nodes):
            return "SUCCESS", f"pool ready: {count(nodes, 'node')}"
        case e.PoolResized(nodes=nodes, superseded=True):
            return "WARNING", f"overtaken by a resize to {count(nodes, 'node')}"
        case e.PoolResized(nodes=nodes):
            return "SUCCESS", f"pool resized: {count(nodes, 'node')}"
        case e.PoolUpdated(changed=changed, outdated=outdated):
            rolls = f"; {count(outdated, 'machine')} will be replaced" if outdated else ""
            return "SUCCESS", f"pool updated: {_names(changed)} changed{rolls}"
        case e.PoolRolled(renewed=renewed):
            return "SUCCESS", f"every machine is of the new spec: {count(renewed, 'machine')} replaced"
        case e.PoolParked(reason=text, wasted_micro_usd=wasted):
            lost = f"; {_dollars(wasted)} went to machines that never worked" if wasted else ""
            return "ERROR", f"pool parked: {text}{lost}"
        case e.PoolPaused():
            return "WARNING", "pool paused: it launches nothing and starts no task"
        case e.PoolResumed():
            return "SUCCESS", "pool resumed"
        case e.PoolScaled(before=before, nodes=nodes, why=why):
            return "INFO", f"from {before} to {count(nodes, 'node')}{_why(why)}"
        case e.BudgetWarned(period=period, spent_micro_usd=spent, limit_micro_usd=limit):
            return "WARNING", f"{_dollars(spent)} of {_dollars(limit)} {_A[period]} are spent"
        case e.BudgetReached(period=period, spent_micro_usd=spent, limit_micro_usd=limit, then=then):
            return (
                "ERROR",
                f"budget reached: {_dollars(spent)} of {_dollars(limit)} {_A[period]}; then: {then}",
            )
        case e.BudgetFreed():
            return "SUCCESS", "the pool may spend again"
        case _:
            return None


_A = {"day": "a day", "total": "in all"}


def _of_machine(event: Event) -> Told | None:
    match event:
        case e.InstanceLaunched(node_id=node, instance_id=name, provider=provider, why=why):
            return "INFO", f"node {node}: {name} was ordered at {provider}{_why(why)}"
        case e.InstanceRunning(node_id=node, instance=one):
            at = "runs" if one.ip is None or not one.ssh_port else f"has address {one.ip}:{one.ssh_port}"
            return "INFO", f"node {node}: {one.id} {at}"
        case e.InstanceProvisioned(instance=one):
            return "INFO", f"node {one.node}: {_machine(one)} is connected"
        case e.InstanceBootstrapped(instance=one):
            return "SUCCESS", f"node {one.node}: {_machine(one)} is ready"
        case e.InstancePreempted(instance=one, reason=text):
            return "WARNING", f"node {one.node}: instance {_machine(one)} is being taken: {text}"
        case e.NoticeWithdrawn(instance_id=name):
            return "INFO", f"{name} stays: the notice was withdrawn"
        case e.InstanceReplaced(old_id=old, new=new):
            return "SUCCESS", f"node {new.node}: {_machine(new)} replaced {old}"
        case e.InstanceDestroyed(instance_id=name, reason=text, cost_micro_usd=cost):
            price = f", cost {_dollars(cost)}" if cost else ""
            why = f" ({text})" if text not in ("", "gone") else ""
            return "INFO", f"{name} is gone{why}{price}"
        case e.LaunchRefused(instance_id=name, market=market, fault=fault, detail=words):
            return "WARNING", f"launch of {name} in {market} refused: {fault}{f' ({words})' if words else ''}"
        case e.BootstrapPhase(instance=one, event="started", phase=phase):
            return "DEBUG", f"node {one.node}: set-up step {phase!r} started"
        case e.BootstrapPhase(instance=one, event="completed", phase=phase, elapsed=elapsed):
            after = f" in {took(elapsed)}" if elapsed is not None else ""
            return "DEBUG", f"node {one.node}: set-up step {phase!r} completed{after}"
        case e.BootstrapPhase(instance=one, phase=phase, error=error):
            return "WARNING", f"node {one.node}: set-up step {phase!r} failed{_why(error)}"
        case e.BootstrapCommand(instance=one, command=line):
            return "DEBUG", f"node {one.node}: runs {line}"
        case e.BootstrapFailed(instance=one):
            return "ERROR", f"node {one.node}: set-up of {_machine(one)} failed in {reason(event)}"
        case _:
            return _of_listing(event)


def _of_listing(event: Event) -> Told | None:
    match event:
        case e.InstanceAdopted(instance_id=name, ref=ref):
            return "INFO", f"{name} was found again and adopted ({ref})"
        case e.InstanceQuarantined(ref=ref, provider=provider, micro_usd_per_hour=price):
            text = f"a machine with our mark that nobody knows runs at {provider}: {ref}"
            return "WARNING", f"{text}, {_dollars(price)} an hour; it is ended unless somebody claims it"
        case e.InstanceReaped(ref=ref, provider=provider):
            return "INFO", f"the machine that nobody knew is gone from {provider}: {ref}"
        case e.LeftoverFound(leftover=kind, provider=provider, ref=ref):
            return "WARNING", f"a {kind} with our mark is left over at {provider}: {ref}"
        case e.LeftoverRemoved(leftover=kind, provider=provider, ref=ref):
            return "INFO", f"the {kind} that was left over at {provider} is gone: {ref}"
        case _:
            return None


def _of_task(event: Event) -> Told | None:
    match event:
        case e.TaskQueued(task_id=name, attempt=attempt):
            again = f" again, for attempt {attempt}" if attempt > 1 else ""
            return "DEBUG", f"task {name} is queued{again}"
        case e.TaskStarted(task_id=name, instance=one, function_name=title, attempt=attempt):
            again = f", attempt {attempt}" if attempt > 1 else ""
            return "INFO", f"task {name} ({one_line(title, 80)}) runs on node {one.node}{again}"
        case e.TaskAttemptEnded(task_id=name, attempt=number, result=result, reason=text):
            level: Level = "INFO" if result == "success" else "WARNING"
            how = ended_how(result, text, event.exit_code, event.signal)
            return level, f"task {name}: attempt {number} ended: {how}"
        case e.TaskCompleted(task_id=name, success=True, duration=duration):
            return "SUCCESS", f"task {name} done in {took(duration)}"
        case e.TaskCompleted(task_id=name, result=result, exit_code=exit_code):
            level = "WARNING" if result == "terminated" else "ERROR"
            why, code = reason(event), _code(exit_code)
            return level, f"task {name}: {why}{'' if why.endswith(code.removeprefix(', ')) else code}"
        case _:
            return None


def _of_daemon(event: Event) -> Told | None:
    match event:
        case e.Administered(action=action, detail=detail):
            return "INFO", f"{action}{_why(detail)}"
        case e.ConfigReloaded(plan=plan, needs_restart=restart):
            later = f"; restart the daemon for {', '.join(restart)}" if restart else ""
            return "INFO", f"config read again: {'; '.join(plan) or 'nothing changed'}{later}"
        case e.TokenCreated(name=name, scope=scope, pools=pools):
            only = f", only for {', '.join(pools)}" if pools else ""
            return "INFO", f"token {name} made, scope {scope}{only}"
        case e.TokenRevoked(name=name):
            return "INFO", f"token {name} revoked"
        case e.SecretsStored(group=group, revision=revision, keys=keys):
            return "INFO", f"environment group {group} has revision {revision}: {_names(keys)}"
        case e.SecretsRemoved(group=group):
            return "INFO", f"environment group {group} removed"
        case e.CredentialStored(name=name, hostname=host):
            return "INFO", f"credential {name} for {host} kept"
        case e.CredentialRemoved(name=name):
            return "INFO", f"credential {name} removed"
        case e.WebhookFailing(webhook=name, error=error):
            return "ERROR", f"webhook {name} fails: {error}"
        case e.WebhookTested(webhook=name, error=error):
            return ("WARNING" if error else "INFO"), f"webhook {name} tested{_why(error)}"
        case e.WebhookRecovered(webhook=name, dropped=dropped):
            lost = f"; {count(dropped, 'event')} given up meanwhile" if dropped else ""
            return "SUCCESS", f"webhook {name} takes events again{lost}"
        case e.WebhookRemoved(webhook=name, dropped=dropped, replies=replies):
            waited = [count(dropped, "event")] if dropped else []
            waited += [f"the end of {count(replies, 'request')}"] if replies else []
            unsent = f"; never sent: {' and '.join(waited)}" if waited else ""
            return ("WARNING" if waited else "INFO"), f"webhook {name} taken away{unsent}"
        case e.Error(message=message, fatal=fatal):
            if called_off(event):
                return "INFO", f"request {event.request_id}: {message}"
            return ("ERROR" if fatal else "WARNING"), message
        case e.BugCaught(address=address, error=error):
            return "ERROR", f"bug in {address}: {error}"
        case _:
            return None
