"""What strengths each node had when it ran last."""

from __future__ import annotations

from collections import OrderedDict

# (node, file, which of the node's uses of that file) -> the strengths it had, and whether they ever changed.
_last: OrderedDict[tuple, tuple[object, bool]] = OrderedDict()


def changed_since_last_run(node: str | None, uses: list[tuple[str, object]]) -> list[bool]:
    """For each (file, strengths) of a node: whether the strengths differ from those of its last run.

    Once changed, always changed, until the node takes another file: who turns a slider once turns it again. A node
    without an id (called from code) has no last run.
    """
    if node is None:
        return [False] * len(uses)
    answers, count, kept = [], {}, set()
    for file, strengths in uses:
        count[file] = number = count.get(file, 0) + 1
        key = node, file, number
        before, changed = _last.get(key, (strengths, False))
        changed = changed or before != strengths
        _last[key] = strengths, changed
        _last.move_to_end(key)
        kept.add(key)
        answers.append(changed)
    for key in [key for key in _last if key[0] == node and key not in kept]:
        del _last[key]
    while len(_last) > 512:
        _last.popitem(last=False)
    return answers
