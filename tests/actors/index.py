"""What an index says, as one value to compare."""

from collections.abc import Mapping
from typing import Any

from actors.address import Address
from actors.index import Index
from providers.model import Value


def built(states: Mapping[Address, Value]) -> Index:
    """The index of these states, from nothing."""
    index = Index()
    for address, state in states.items():
        index.apply(address, None, state)
    return index


def shown(source: Index | Mapping[Address, Value]) -> dict[str, Any]:
    """All that rules can ask; orders of equals apart, which are those of arrival."""
    index = source if isinstance(source, Index) else built(source)
    instances = sorted(index.instances)
    return {
        "pool": index.pool,
        "nodes": index.nodes,
        "instances": index.instances,
        "tasks": index.tasks,
        "asking": set(index.asking),
        "paused": set(index.paused),
        "node_counts": +index.node_counts,
        "instance_counts": +index.instance_counts,
        "task_counts": +index.task_counts,
        "held": index.held,
        "lost": set(index.lost),
        "idle": set(index.idle),
        "in order": list(index.idle.values()) == sorted(index.idle.values()),
        "machines": index.machines(),
        "pinned to": {node: set(index.pinned_to(node)) for node in index.pinned_nodes},
        "queue": (len(index.queue), index.queue.first()),
        "pinned": {node: (len(queue), queue.first()) for node, queue in index.pinned.items() if len(queue)},
        "free": set(index.free),
        "buffers": set(index.buffers),
        "on": {name: set(index.tasks_on(name)) for name in instances},
        "leaving": {name for name in instances if index.is_leaving(name)},
        "left": {node: set(index.leaving_from(node)) for node in index.left_nodes},
        "moved": (index.moved_away, {name for name in instances if index.was_moved(name)}),
        "shown": {name: index.node_instance(name) for name in instances},
        "ready": index.nodes_ready,
        "pending": index.pending,
        "outdated": set(index.outdated),
        "purse": (index.purse.rate, index.purse.reading, dict(index.purse.meters())),
    }


def difference(one: Index | Mapping[Address, Value], other: Index | Mapping[Address, Value]) -> list[str]:
    """What two of them say differently."""
    ours, theirs = shown(one), shown(other)
    return [f"{name}: {ours[name]} != {theirs[name]}" for name in ours if ours[name] != theirs[name]]
