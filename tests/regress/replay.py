"""The statements of the regression suite, again: as a server has logged them, session by session, but by
the extended protocol, with every byte of the answers. psql asks by simple queries only.

The results are one file per session; the answer of one statement is one line."""

import json, re, socket, struct

# A statement that is not answered by then never is.
ANSWER_SECONDS_MAX = 120
# The class of the engine's advisory locks.
ENGINE_LOCKS = b"1885827941"
# With the ids of the transactions of that day in it.
NOT_REPLAYED = "pg_xact_status("
# Its number is that of the backend: the proxy's own connections have some.
TEMPORARY_SCHEMA = re.compile(rb"(pg_(toast_)?temp_)\d+")
# A server that is to give the same object and transaction ids every time.
STEADY_SETTINGS = ["autovacuum=off"]
# What a server has to be told so that it logs them, in a folder of its own.
LOG_SETTINGS = ["logging_collector=on", "log_destination=jsonlog", "log_filename=statements",
                "log_statement=all", "log_rotation_size=0", "log_rotation_age=0"]


def statements(log):
    """The sessions of the suite in a log: [application name, user, database, [text, …]]."""
    sessions = {}
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        name = entry.get("application_name", "")
        if not name.startswith("pg_regress/") or entry.get("backend_type") != "client backend":
            continue
        session = sessions.setdefault(entry["session_id"], [name, entry["user"], entry["dbname"], []])
        text, said = session[3], entry.get("message", "")
        if said.startswith("statement: "):
            text.append(said.removeprefix("statement: "))
        elif "statement" in entry and entry["statement"] not in text[-1:]:
            # It was not understood, and only logged with its error.
            text.append(entry["statement"])
    for session in sessions.values():
        session[3] = [text for text in session[3] if NOT_REPLAYED not in text]
    return list(sessions.values())


def without_engine_locks(results):
    """Takes the engine's advisory locks out of results: the suite lists all of the database, and
    those that are equal by what it sorts by come in any order."""
    for file in results.rglob("advisory_lock.out"):
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(line for line in lines if ENGINE_LOCKS not in line))


class Session:
    def __init__(self, port, user, database):
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""
        words = ["user", user, "database", database, "application_name", "replay"]
        body = struct.pack("!i", 196608) + b"".join(w.encode() + b"\0" for w in words) + b"\0"
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)

    def frame(self):
        """The next frame: its tag and its body; None at the end of the stream."""
        while len(self.unread) < 5 or len(self.unread) < 1 + struct.unpack_from("!i", self.unread, 1)[0]:
            more = self.socket.recv(65536)
            if not more:
                return None
            self.unread += more
        end = 1 + struct.unpack_from("!i", self.unread, 1)[0]
        frame, self.unread = self.unread[:end], self.unread[end:]
        return chr(frame[0]), frame[5:]

    def answer(self):
        """All up to ReadyForQuery, in one line each; None behind them at the end of the stream."""
        said = []
        while True:
            try:
                frame = self.frame()
            except TimeoutError:
                return said + ["no answer", None]
            except ConnectionError:
                frame = None
            if frame is None:
                return said + ["closed", None]
            tag, body = frame
            if tag == "G":
                self.socket.sendall(message("c") + message("S"))
            if tag in "KA":
                # Process ids and cancel keys are anybody's.
                body = body[4:] if tag == "A" else b""
            body = TEMPORARY_SCHEMA.sub(rb"\1N", body)
            if ENGINE_LOCKS not in body:
                said.append(f"{tag} {body}")
            if tag == "Z":
                return said

    def end(self):
        """Waits for the end of the backend: its temporary schema is then free for the next, and
        all runs give the same object ids."""
        try:
            self.socket.sendall(message("X"))
            while self.socket.recv(65536):
                pass
        except OSError:
            pass
        self.socket.close()

    def run(self, text):
        sql = text.encode() + b"\0"
        self.socket.sendall(
            message("P", b"\0" + sql + b"\0\0") + message("D", b"S\0")
            + message("B", b"\0\0\0\0\0\0\0\0") + message("D", b"P\0")
            + message("E", b"\0\0\0\0\0") + message("S"))
        return self.answer()


def message(tag, body=b""):
    return tag.encode() + struct.pack("!i", len(body) + 4) + body


def replay(port, sessions, results):
    """Runs the sessions one after the other; returns how many statements they have."""
    count = 0
    for number, (name, user, database, texts) in enumerate(sessions):
        lines = []
        session = Session(port, user, database)
        said = session.answer()
        lines.append(json.dumps(["", said]))
        for text in texts if said[-1] is not None else []:
            said = session.run(text)
            lines.append(json.dumps([text, said]))
            count += 1
            if said[-1] is None:
                break
        session.end()
        file = results / f"{number:03}-{re.sub(r'.*/', '', name)}.out"
        file.write_text("\n".join(lines) + "\n")
    return count


def blank_unsteady(direct, again, others):
    """Takes out of the results, and those of other runs, what two direct runs have not in common:
    process ids, times, costs of plans. Returns how many statements that were, by session."""
    unsteady = {}
    for one in sorted(direct.iterdir()):
        lines = [folder / one.name for folder in (direct, again, *others)]
        lines = [file.read_text().splitlines() for file in lines]
        for i, line in enumerate(lines[0]):
            if i >= len(lines[1]) or lines[1][i] != line:
                unsteady[one.name] = unsteady.get(one.name, 0) + 1
                for file in lines:
                    if i < len(file):
                        file[i] = json.dumps([json.loads(file[i])[0], "not steady"])
        for folder, file in zip((direct, again, *others), lines):
            (folder / one.name).write_text("\n".join(file) + "\n")
    return unsteady
