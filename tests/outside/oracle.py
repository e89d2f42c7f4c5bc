"""What a store must hold, worked out from the lines of writer.c alone: begun and acknowledged writes in the order of the
pipe. Knows nothing of the library.

A key holds what some write gave it, and that write is not stale: no other write of the key was acknowledged that began
after it was acknowledged. A write that failed or was cut off may have happened or not. The keys of a batch that nothing
else writes all hold the same batch. A thread's writes are a prefix: if one of them happened, so did all
before it that did not fail.
"""

from collections import defaultdict


class Violation(Exception):
    """The store lost something, or made something up."""


class Write:
    def __init__(self, name, keys, began):
        self.name, self.began, self.acknowledged, self.failed = name, began, None, False
        self.puts = [key for key in keys if not key.startswith("-")]
        self.deletes = [key[1:] for key in keys if key.startswith("-")]
        session, thread, number = name.split(".")
        self.thread, self.number = (session, thread), int(number)


class Oracle:
    def __init__(self):
        self.held = {}  # key -> name of the write, at the last full look into the store
        self.writes = {}  # since then
        self.by_key = defaultdict(list)
        self.clock = 0
        self.acknowledged = self.failed = self.looks = 0

    # ---- what the writer says

    def began(self, name, keys):
        self.clock += 1
        write = self.writes[name] = Write(name, keys, self.clock)
        for key in write.puts + write.deletes:
            self.by_key[key].append(write)

    def was_acknowledged(self, name):
        self.clock += 1
        self.writes[name].acknowledged = self.clock
        self.acknowledged += 1

    def has_failed(self, name):
        self.writes[name].failed = True
        self.failed += 1

    # ---- what the store shows

    def look(self, found):
        """A new process shows these keys: {key: name or None}. From then on they are the truth."""
        self.looks += 1
        for key, name in found.items():
            self._check_key(key, name)
        self._check_batches(found)
        self._check_prefixes(found)
        self.held = {key: name for key, name in found.items() if name}
        self.writes.clear()
        self.by_key.clear()

    def look_of_one_thread(self, found):
        """The process that wrote shows its keys: exactly what was acknowledged last, and no failed write."""
        for key, name in found.items():
            expected = self.held.get(key)
            for write in self.by_key[key]:
                if write.acknowledged:
                    expected = write.name if key in write.puts else None
            if name != expected:
                raise Violation(f"{key} shows {name} before the close, not {expected}")

    def _check_key(self, key, name):
        newest_began = max((w.began for w in self.by_key[key] if w.acknowledged), default=0)
        if name:
            write = self.writes.get(name)
            if write is None:
                if self.held.get(key) != name:
                    raise Violation(f"{key} holds {name}, which it did not hold before and nobody wrote since")
                candidates = [0]
            elif key not in write.puts:
                raise Violation(f"{key} holds {name}, which did not write it")
            else:
                candidates = [write.acknowledged]
        else:
            candidates = [w.acknowledged for w in self.by_key[key] if key in w.deletes]
            if key not in self.held:
                candidates.append(0)
        # A write that was not acknowledged may have come last.
        if not any(acknowledged is None or acknowledged >= newest_began for acknowledged in candidates):
            newer = [w.name for w in self.by_key[key] if w.acknowledged and w.began == newest_began]
            raise Violation(f"{key} holds {name}, but {newer} was acknowledged after that")

    def _check_batches(self, found):
        groups = defaultdict(dict)
        for key, name in found.items():
            group = key.split(".")[0]
            if group.startswith("together") or group == "large":
                groups[group][key] = name
        for group, members in groups.items():
            if len(set(members.values())) > 1:
                raise Violation(f"half of a batch: {members}")

    def _check_prefixes(self, found):
        newest = {}
        for name in found.values():
            write = self.writes.get(name)
            if write:
                newest[write.thread] = max(newest.get(write.thread, -1), write.number)
        for key, writes in self.by_key.items():
            if not key.startswith(("own", "together")) or key not in found:
                continue
            due = [w for w in writes if w.number <= newest.get(w.thread, -1) and not w.failed]
            if not due:
                continue
            last = due[-1]
            shown = self.writes.get(found[key])
            later_delete = any(key in w.deletes and w.number >= last.number for w in writes)
            if (shown is None and not later_delete) or (shown and shown.number < last.number):
                raise Violation(f"{key} holds {found[key]}: {last.name} is missing, and a later write of its thread is not")


class Reader:
    """Turns the lines of one writer into calls of an oracle."""

    def __init__(self, oracle, one_thread):
        self.oracle, self.one_thread = oracle, one_thread
        self.shown = {}
        self.last = ""
        self.open_error = None
        self.statuses = []
        self.close_status = None
        self.verifications = 0

    def line(self, text):
        mark, _, rest = text.partition(" ")
        words = rest.split()
        self.last = mark
        if mark in ("S", "E"):
            self.shown[words[0]] = None if words[1] == "-" else words[1]
        elif mark == "s":
            self.oracle.look(self.shown)
            self.shown = {}
        elif mark == "e":
            if self.one_thread:
                self.oracle.look_of_one_thread(self.shown)
            self.shown = {}
        elif mark == "B":
            self.oracle.began(words[0], words[1:])
        elif mark == "K":
            self.oracle.was_acknowledged(words[0])
        elif mark == "F":
            self.oracle.has_failed(words[0])
            self.statuses.append(int(words[1]))
        elif mark == "W":
            raise Violation(f"a wrong value or a read that failed: {rest}")
        elif mark == "X":
            self.open_error = (int(words[0]), rest)
        elif mark == "v":
            self.verifications += 1
        elif mark == "c":
            self.close_status = int(words[0])
        elif mark not in ("O", "o", "V", "C"):
            raise Violation(f"not a line of the writer: {text!r}")


def notices_planted_losses():
    """The oracle itself: each of these has to be noticed."""
    done = "B 1.0.0 own0.0|K 1.0.0|B 1.0.1 own0.0|K 1.0.1|B 1.0.2 -own0.1|B 1.0.3 own0.2"
    batch = "B 1.0.0 large.0 large.1|K 1.0.0|B 1.0.1 large.0 large.1"
    planted = {
        "a lost write": (done, {"own0.0": None}),
        "an older value": (done, {"own0.0": "1.0.0"}),
        "a value of another key": (done, {"own0.0": "1.0.3"}),
        "a value that nobody wrote": (done, {"own0.0": "1.0.9"}),
        "half a batch": (batch, {"large.0": "1.0.1", "large.1": "1.0.0"}),
        "a gap": ("B 1.0.0 own0.0|B 1.0.1 own0.1", {"own0.0": None, "own0.1": "1.0.1"}),
    }
    for what, (lines, found) in planted.items():
        reader = Reader(Oracle(), False)
        for text in lines.split("|"):
            reader.line(text)
        try:
            reader.oracle.look(found)
        except Violation:
            continue
        raise SystemExit(f"the oracle is blind: {what}")
    for lines, found in ((done, {"own0.0": "1.0.1", "own0.2": "1.0.3"}), (batch, {"large.0": "1.0.1", "large.1": "1.0.1"})):
        reader = Reader(Oracle(), False)
        for text in lines.split("|"):
            reader.line(text)
        reader.oracle.look(found)
    print(f"the oracle noticed {len(planted)} of {len(planted)} planted losses")


if __name__ == "__main__":
    notices_planted_losses()
