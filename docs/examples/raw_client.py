#!/usr/bin/env python3
"""A Tercet client made from docs/protocol.md alone, with Python's standard library alone.

    raw_client.py HOST:PORT put KEY VALUE      writes a cache line, prints its version
    raw_client.py HOST:PORT get KEY            prints a cache line
    raw_client.py HOST:PORT lock NAME          acquires and releases a lock, prints the fence
    raw_client.py check VECTORS                checks itself against wire/tests/vectors.txt

It shows the protocol, and is no client for production: one request at a time, no heartbeats.
"""

import os
import re
import socket
import struct
import sys
import time

# ---- Checksum and hash ----


def _crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC_TABLE = _crc_table()


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = CRC_TABLE[(c ^ b) & 0xFF] ^ (c >> 8)
    return c ^ 0xFFFFFFFF


P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
MASK = (1 << 64) - 1


def _rotl(n, by):
    return ((n << by) | (n >> (64 - by))) & MASK


def _round(a, w):
    return _rotl((a + w * P2) & MASK, 31) * P1 & MASK


def xxh64(data):
    """XXH64 with seed 0."""
    at = 0
    if len(data) >= 32:
        v = [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
        while len(data) - at >= 32:
            words = struct.unpack_from("<4Q", data, at)
            v = [_round(a, w) for a, w in zip(v, words)]
            at += 32
        h = sum(_rotl(a, by) for a, by in zip(v, (1, 7, 12, 18))) & MASK
        for a in v:
            h = ((h ^ _round(0, a)) * P1 + P4) & MASK
    else:
        h = P5
    h = (h + len(data)) & MASK
    while len(data) - at >= 8:
        (w,) = struct.unpack_from("<Q", data, at)
        h = (_rotl(h ^ _round(0, w), 27) * P1 + P4) & MASK
        at += 8
    if len(data) - at >= 4:
        (w,) = struct.unpack_from("<I", data, at)
        h = (_rotl(h ^ (w * P1 & MASK), 23) * P2 + P3) & MASK
        at += 4
    for b in data[at:]:
        h = _rotl(h ^ (b * P5 & MASK), 11) * P1 & MASK
    h = (h ^ (h >> 33)) * P2 & MASK
    h = (h ^ (h >> 29)) * P3 & MASK
    return h ^ (h >> 32)


def tag(name):
    start = name.find(b"{")
    if start < 0:
        return name
    end = name.find(b"}", start + 1)
    return name[start + 1 : end] if end > start + 1 else name


def shard_of(name, shards):
    return xxh64(tag(name)) % shards


def engine_of_group(group, engines):
    return (group - 1) % engines if group else 0


# ---- Bodies ----

SIZES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
CALL = "session:id sequence:u64 answered_below:u64 "

# Kind and fields of each message, in their order.
MESSAGES = {
    "Hello": (0x01, "cluster:id client:id engine:u32 version_min:u8 version_max:u8 name:bytes credentials:bytes"),
    "Heartbeat": (0x02, "session:id"),
    "Topology": (0x03, "known:u64"),
    "Watch": (0x05, "cursor:u64 credit:u32"),
    "PushesRead": (0x06, "subscription:u64 cursor:u64"),
    "SessionOpen": (0x10, "session:id ttl_ms:u32"),
    "SessionClose": (0x11, "session:id"),
    "LockAcquire": (0x20, CALL + "wait_ms:u32 lease_ms:u32 mode:u8 name:bytes"),
    "LockRelease": (0x21, CALL + "fence:u64 name:bytes"),
    "QueuePush": (0x30, CALL + "priority:u8 name:bytes payload:bytes"),
    "QueuePop": (0x31, CALL + "wait_ms:u32 visibility_ms:u32 name:bytes"),
    "QueueAck": (0x32, CALL + "id:u64 delivery:u32 name:bytes"),
    "QueueNack": (0x33, CALL + "id:u64 delivery:u32 delay_ms:u32 name:bytes"),
    "CacheGet": (0x40, "key:bytes"),
    "CachePut": (0x41, CALL + "version:u64 ttl_ms:u32 expect:u8 key:bytes value:bytes"),
    "CacheDelete": (0x42, CALL + "version:u64 expect:u8 key:bytes"),
    "Status": (0x04, "reserved:u32"),
    "NodeAdd": (0x50, "incarnation:id node:u32 engines:u32 replaces:u8 address:bytes"),
    "NodeDrain": (0x51, "node:u32"),
    "NodeForget": (0x52, "node:u32"),
    "LeaderMove": (0x53, "group:u32 node:u32"),
    "BackupBegin": (0x60, "backup:id group:u32"),
    "BackupRead": (0x61, "backup:id group:u32 offset:u64"),
    "Welcome": (
        0x81,
        "cluster:id node:u32 engine:u32 engines:u32 shards:u32 epoch:u64 credit_frames:u32 credit_bytes:u32 version:u8",
    ),
    "Alive": (0x82, "shards:bytes"),
    "TopologyReply": (0x83, "epoch:u64 cluster:id shards:u32 nodes:bytes placement:bytes"),
    "StatusReply": (0x84, "json:bytes"),
    "Watching": (0x85, "cursor:u64"),
    "Error": (0x8F, "code:u16 retry_ms:u32 node:u32 engine:u32 text:bytes"),
    "DetailedError": (0x8E, "code:u16 retry_ms:u32 node:u32 engine:u32 text:bytes detail:bytes"),
    "Done": (0x90, "token:u64 index:u64"),
    "Delivery": (0xB1, "id:u64 delivery:u32 priority:u8 payload:bytes"),
    "Value": (0xC0, "version:u64 value:bytes"),
    "BackupReady": (0xE0, "index:u64 term:u64 total:u64 cache_bytes_max:u64"),
    "BackupPiece": (0xE1, "offset:u64 bytes:bytes"),
    "TopologyPush": (0x86, "cursor:u64 epoch:u64 shards:u32 whole:u8 nodes:bytes placement:bytes"),
}
NAMES = {kind: name for name, (kind, _) in MESSAGES.items()}


def fields_of(name):
    return [tuple(field.split(":")) for field in MESSAGES[name][1].split()]


def encode(message, /, **values):
    """The body of a message: contents first, then the fixed part."""
    body = bytearray()
    begins = {}
    for field, kind in fields_of(message):
        if kind == "bytes":
            begins[field] = len(body)
            body += values[field]
    for field, kind in fields_of(message):
        value = values.pop(field)
        if kind == "bytes":
            body += struct.pack("<iI", begins[field] - len(body), len(value))
        elif kind == "id":
            assert len(value) == 16
            body += value
        else:
            body += struct.pack("<" + SIZES[kind], value)
    assert not values, f"{message} has no {list(values)}"
    return bytes(body)


def decode(name, body):
    """The fields of a body."""
    sizes = {"bytes": 8, "id": 16, "u8": 1, "u16": 2, "u32": 4, "u64": 8}
    at = len(body) - sum(sizes[kind] for _, kind in fields_of(name))
    if at < 0:
        raise ValueError(f"{len(body)} bytes are no {name}")
    values = {}
    for field, kind in fields_of(name):
        if kind == "bytes":
            offset, length = struct.unpack_from("<iI", body, at)
            begin = at + offset
            if begin < 0 or begin + length > len(body):
                raise ValueError(f"{name}.{field} points outside the body")
            values[field] = bytes(body[begin : begin + length])
        elif kind == "id":
            values[field] = bytes(body[at : at + 16])
        else:
            (values[field],) = struct.unpack_from("<" + SIZES[kind], body, at)
        at += sizes[kind]
    return values


def read_nodes(rows):
    """Node id -> (engines, address)."""
    nodes, at = {}, 0
    while at < len(rows):
        node, engines, length = struct.unpack_from("<IIH", rows, at)
        nodes[node] = (engines, rows[at + 10 : at + 10 + length].decode())
        at += 10 + length
    return nodes


def read_placement(rows):
    """Shard -> (leader, replicas)."""
    placement, at = {}, 0
    while at < len(rows):
        shard, leader, count = struct.unpack_from("<IIB", rows, at)
        placement[shard] = (leader, list(struct.unpack_from(f"<{count}I", rows, at + 9)))
        at += 9 + 4 * count
    return placement


# ---- Frames ----

HEADER_BYTES = 56
BODY_BYTES_MAX = (1 << 20) + 512 + 1024 - HEADER_BYTES


def frame(kind, request, body, shard=0, deadline_ms=0, epoch=0, trace=bytes(16)):
    checked = struct.pack("<IBBHQIIQ", len(body), 1, 0, kind, request, shard, deadline_ms, epoch) + trace + body
    return b"TCT1" + struct.pack("<I", crc32c(checked)) + checked


def read_frame(read):
    """Takes one frame off a stream: (kind, request, body). `read(n)` gives exactly n bytes."""
    header = read(HEADER_BYTES)
    checksum, length, version, flags, kind, request = struct.unpack_from("<IIBBHQ", header, 4)
    if header[:4] != b"TCT1" or version != 1 or flags != 0:
        raise ValueError("this is no Tercet frame")
    if length > BODY_BYTES_MAX:
        raise ValueError(f"a body of {length} bytes is over the limit")
    body = read(length)
    if crc32c(header[8:] + body) != checksum:
        raise ValueError("the checksum does not match")
    return kind, request, body


# ---- Connections ----


def read_detail(data):
    """How things stood that a request was refused for; None for what only a later version knows."""
    tag, rest = data[0], data[1:]
    if tag == 1:
        return {"version": struct.unpack("<Q", rest)[0]}
    if tag == 2:
        fence, mode = struct.unpack("<QB", rest)
        return {"fence": fence, "mode": mode}
    return None


class Refused(Exception):
    def __init__(self, error):
        self.error = error
        self.detail = read_detail(error["detail"]) if "detail" in error else None
        text = f"code {error['code']}: {error['text'].decode(errors='replace')}"
        super().__init__(f"{text} {self.detail}" if self.detail else text)


class Connection:
    """One connection to one engine of a node."""

    def __init__(self, address, engine, client):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = 0
        self.welcome = self.ask(
            "Hello",
            cluster=bytes(16),
            client=client,
            engine=engine,
            version_min=1,
            version_max=2,
            name=b"raw_client.py",
            credentials=b"",
        )

    def read(self, n):
        data = b""
        while len(data) < n:
            piece = self.socket.recv(n - len(data))
            if not piece:
                raise ConnectionError("the node closed the connection")
            data += piece
        return data

    def ask(self, message, shard=0, epoch=0, /, **values):
        """Sends one request and waits for its answer."""
        self.request += 1
        kind = MESSAGES[message][0]
        self.socket.sendall(frame(kind, self.request, encode(message, **values), shard, 10_000, epoch))
        while True:
            kind, request, body = read_frame(self.read)
            answer = decode(NAMES[kind], body)
            if NAMES[kind] in ("Error", "DetailedError") and request in (0, self.request):
                raise Refused(answer)
            if request == self.request:
                return answer


class Client:
    """Follows the topology: each request goes to the engine of its shard's leader."""

    NOT_LEADER, WRONG_SHARD, BUSY, UNAVAILABLE, NOT_READY, STOPPING = 7, 8, 9, 10, 15, 51

    def __init__(self, seed_address):
        self.seed = seed_address
        self.session = os.urandom(16)
        self.connections = {}
        self.opened = set()
        self.sequences = {}
        self.nodes = {}
        self.learn()

    def learn(self):
        """Asks the first node that answers where everything is."""
        for address in [self.seed, *(address for _, address in self.nodes.values())]:
            try:
                topology = self.connect(address, 0).ask("Topology", known=0)
                break
            except OSError as e:
                self.connections.pop((address, 0), None)
                why = e
        else:
            raise ConnectionError(f"no node answers: {why}")
        self.shards, self.epoch = topology["shards"], topology["epoch"]
        self.nodes = read_nodes(topology["nodes"])
        self.placement = read_placement(topology["placement"])

    def connect(self, address, engine):
        key = (address, engine)
        if key not in self.connections:
            self.connections[key] = Connection(address, engine, self.session)
        return self.connections[key]

    def ask(self, message, shard, /, **values):
        """Asks the shard's leader, wherever it is by now, for ten seconds."""
        until = time.monotonic() + 10
        while True:
            leader = self.placement[shard][0]
            engines, address = self.nodes.get(leader, (1, self.seed))
            key = (address, engine_of_group(shard + 1, engines))
            try:
                return self.connect(*key).ask(message, shard, self.epoch, **values)
            except Refused as refused:
                error = refused.error
                again = (self.NOT_LEADER, self.WRONG_SHARD, self.BUSY, self.UNAVAILABLE, self.NOT_READY, self.STOPPING)
                if error["code"] not in again or time.monotonic() > until:
                    raise
                time.sleep(max(error["retry_ms"], 20) / 1000)
                if error["code"] != self.BUSY:
                    self.learn()
                if error["code"] == self.NOT_LEADER and error["node"] in self.nodes:
                    self.placement[shard] = (error["node"], self.placement[shard][1])
            except (OSError, ValueError):
                # The same call again, over a new connection: its sequence makes it happen once.
                self.connections.pop(key, None)
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
                self.learn()

    def call(self, message, name, /, **values):
        """A call: exactly once, in a session that is open in the name's shard."""
        shard = shard_of(name, self.shards)
        if shard not in self.opened:
            self.ask("SessionOpen", shard, session=self.session, ttl_ms=30_000)
            self.opened.add(shard)
        sequence = self.sequences[shard] = self.sequences.get(shard, 0) + 1
        return self.ask(
            message, shard, session=self.session, sequence=sequence, answered_below=sequence, **values
        )

    def put(self, key, value):
        return self.call("CachePut", key, version=0, ttl_ms=0, expect=0, key=key, value=value)["token"]

    def get(self, key):
        return self.ask("CacheGet", shard_of(key, self.shards), key=key)["value"]

    def acquire(self, name):
        return self.call("LockAcquire", name, wait_ms=5_000, lease_ms=0, mode=2, name=name)["token"]

    def release(self, name, fence):
        self.call("LockRelease", name, fence=fence, name=name)

    def close(self):
        for shard in self.opened:
            self.ask("SessionClose", shard, session=self.session)


# ---- Checking itself ----


def check(path):
    """Every vector of the file, both ways."""
    checked = 0
    for line in open(path):
        if line.startswith("#") or not line.strip():
            continue
        given, _, result = line.strip().partition(" : ")
        what, *words = given.split(" ")
        if what == "message" and words[0] in MESSAGES:
            values = {}
            for word in words[2:]:
                field, _, value = word.partition("=")
                values[field] = bytes.fromhex(value.strip('"')) if '"' in value else int(value)
            assert MESSAGES[words[0]][0] == int(words[1], 16), line
            assert encode(words[0], **values).hex() == result, line
            assert decode(words[0], bytes.fromhex(result)) == values, line
        elif what == "frame":
            data = bytes.fromhex(result)
            kind, request, shard, deadline, epoch = (int(w, 0) for w in words[:5])
            trace = bytes.fromhex(words[5].strip('"'))
            assert frame(kind, request, data[HEADER_BYTES:], shard, deadline, epoch, trace) == data, line
        elif what == "crc32c":
            assert f"{crc32c(bytes.fromhex(words[0].strip(chr(34)))):08x}" == result, line
        elif what == "name":
            name, its_tag, _ = (bytes.fromhex(w.strip('"')) for w in words)
            shards = " ".join(str(shard_of(name, n)) for n in (3, 12, 48))
            assert tag(name) == its_tag and f"{xxh64(tag(name)):016x} {shards}" == result, line
        elif what == "node":
            expected = {int(words[0]): (int(words[1]), words[2])}
            assert read_nodes(bytes.fromhex(result)) == expected, line
        elif what == "placement":
            expected = {int(words[0]): (int(words[1]), [int(r) for r in words[2].split(",")])}
            assert read_placement(bytes.fromhex(result)) == expected, line
        elif what == "engine_of_group":
            assert engine_of_group(int(words[0]), int(words[1])) == int(result), line
        elif what == "detail":
            fields = {"version": ["version"], "holder": ["fence", "mode"]}[words[0]]
            assert read_detail(bytes.fromhex(result)) == dict(zip(fields, map(int, words[1:]))), line
        else:
            continue
        checked += 1
    print(f"{checked} vectors hold")


def main(arguments):
    match arguments:
        case ["check", path]:
            check(path)
        case [address, "put", key, value] if re.search(r":\d+$", address):
            client = Client(address)
            print(client.put(key.encode(), value.encode()))
            client.close()
        case [address, "get", key] if re.search(r":\d+$", address):
            print(Client(address).get(key.encode()).decode(errors="replace"))
        case [address, "lock", name] if re.search(r":\d+$", address):
            client = Client(address)
            fence = client.acquire(name.encode())
            client.release(name.encode(), fence)
            client.close()
            print(fence)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError, ValueError) as e:
        sys.exit(f"raw_client.py: {e}")
