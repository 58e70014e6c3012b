//! Every message between a client and a node.
//!
//! A request's `call` fields, present in all that change something, make it exactly-once
//! (Ongaro, Consensus: Bridging Theory and Practice, section 6.3):
//! `session` names the client, `sequence` counts the client's calls to one shard from 1, and every
//! call below `answered_below` has been answered, so that the group may forget its reply.
//! At most [`crate::limits::WINDOW_REPLIES_MAX`] calls are open at a time.
//!
//! Kinds below 0x80 are requests, from 0x80 replies, from 0x100 messages between nodes
//! ([`crate::peer`]).

use crate::code::Code;
use crate::declare::{choice, messages, requests};
use crate::header::Kind;
use crate::layout::{Field, WireError};
use crate::limits::{
    LEASE_MS_MAX, LINE_TTL_MS_MAX, PUSHES_UNREAD_MAX, SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN,
    WAIT_MS_MAX,
};
use crate::request::{call, id};
use alloc::vec::Vec;

choice! {
    /// How a lock is held.
    LockMode {
        /// Others may hold it, too, in this mode.
        1 Shared level 1,
        /// Nobody else may hold it.
        2 Exclusive level 1,
    }
}

impl LockMode {
    /// Whether who holds a lock in this mode may do what `other` allows.
    pub fn covers(self, other: LockMode) -> bool {
        self == LockMode::Exclusive || other == LockMode::Shared
    }
}

choice! {
    /// What a line must be for a write to be done.
    Expect {
        /// Whatever is there.
        0 Any level 1,
        /// Nothing may be there.
        1 Absent level 1,
        /// The version that the request names must be there.
        2 Version level 1,
    }
}

requests! { REQUESTS:
    /// What is asked of the connection itself.
    Connection ConnectionRequest<'a> {
        /// The first frame of a connection, from whoever opened it. Answered with [`Welcome`].
        0x01 Hello<'a> "greet": level 1 -> Welcome {
            /// The cluster that the client belongs to; all zero = whichever answers.
            cluster: id = id(0x10),
            /// The client's id: the session that its calls will carry, or all zero.
            client: id = id(0x40),
            /// The engine of the node that this connection wants.
            engine: u32 = 3,
            /// The lowest protocol version that the client speaks.
            version_min: u8 = 1,
            /// The highest protocol version that the client speaks.
            version_max: u8 = 2,
            /// A name for people to see in a list of connections, UTF-8, at most 64 bytes.
            name: bytes = b"worker-7",
            /// Opaque credentials; empty for now.
            credentials: bytes = b"",
        }

        /// A sign of life for a session, to each engine that the client uses. Any frame is one too.
        /// Answered with [`Alive`].
        0x02 Heartbeat "send heartbeat": level 1 -> Alive {
            /// The session.
            session: id = id(0x40),
        }

        /// Asks where everything is. Answered with [`TopologyReply`].
        0x03 Topology "ask for the topology": level 1 -> TopologyReply {
            /// The epoch that the client knows; 0 = none.
            known: u64 = 0x0102_0304_0506_0708,
        }

        /// Subscribes to where everything is: what there is now, and then what changes, as [`TopologyPush`] frames that
        /// carry the id of this request. Answered with [`Watching`]. It ends with the connection, or with an error on
        /// the same id.
        0x05 Watch "watch the topology": level 1 -> Watching {
            /// The cursor of the last push that was read, of whichever connection; 0 = none.
            cursor: u64 = 0x0a0b_0c0d_0000_0007,
            /// How many pushes may be unread; the node sends no more before it is told that some were read.
            credit: u32 in (1..=PUSHES_UNREAD_MAX) = 8,
        }

        /// Says how far the pushes of a subscription were read: there is room for as many more. Answered with
        /// [`Watching`]. Who reads nothing for [`crate::limits::PUSH_READ_MS_MAX`] while more waits is cut off.
        0x06 PushesRead "read pushes": level 1 -> Watching {
            /// The id of the request that subscribed.
            subscription: u64 = 5,
            /// The cursor of the last push that was read.
            cursor: u64 = 0x0a0b_0c0d_0000_0009,
        }
    }

    /// What is asked of a session in one shard.
    Session SessionRequest {
        /// Opens a session in one shard; must come before any other call to it. Opening it again is
        /// harmless. Answered with [`Done`], its token 0.
        0x10 SessionOpen "open session": level 1 -> Done {
            /// The session: 128 random bits, never used again once it ended anywhere.
            session: session = id(0x40),
            /// How long the session outlives its last sign of life, in milliseconds.
            ttl_ms: u32 in (SESSION_TTL_MS_MIN..=SESSION_TTL_MS_MAX) = 10_000,
        }

        /// Ends a session in one shard: its locks are released, its waiters leave, its messages
        /// in flight return to their queues. Answered with [`Done`].
        0x11 SessionClose "close session": level 1, gives_back -> Done {
            /// The session.
            session: session = id(0x40),
        }
    }

    /// What is asked of locks.
    Lock LockRequest<'a> {
        /// Acquires a lock. Answered with [`Done`], its token the fence, once it is granted.
        0x20 LockAcquire<'a> "acquire lock": level 1, grants -> Done {
            /// What makes it exactly-once.
            call: call = call(5, 4),
            /// How long to wait, in milliseconds; 0 = try once.
            wait_ms: u32 in (0..=WAIT_MS_MAX) = 2_000,
            /// How long the grant lasts, in milliseconds; 0 = as long as the session.
            lease_ms: u32 in (0..=LEASE_MS_MAX) = 30_000,
            /// 1 = shared, 2 = exclusive.
            mode: LockMode = LockMode::Exclusive,
            /// The lock's name.
            name: name = b"jobs/{nightly}",
        }

        /// Releases a lock. Answered with [`Done`], its token 0.
        0x21 LockRelease<'a> "release lock": level 1, gives_back -> Done {
            /// What makes it exactly-once.
            call: call = call(6, 5),
            /// The fence that the grant gave.
            fence: u64 = 77,
            /// The lock's name.
            name: name = b"jobs/{nightly}",
        }
    }

    /// What is asked of queues.
    Queue QueueRequest<'a> {
        /// Appends a message to a queue. Answered with [`Done`], its token the message's id.
        0x30 QueuePush<'a> "push to queue": level 1 -> Done {
            /// What makes it exactly-once.
            call: call = call(7, 6),
            /// 0 is delivered first, 255 last.
            priority: u8 = 9,
            /// The queue's name.
            name: name = b"mail",
            /// The message.
            payload: value = b"hello",
        }

        /// Takes the first ready message, hidden from others until its visibility runs out. Answered
        /// with [`Delivery`].
        0x31 QueuePop<'a> "pop from queue": level 1, grants -> Delivery {
            /// What makes it exactly-once.
            call: call = call(9, 8),
            /// How long to wait for a message, in milliseconds; 0 = try once.
            wait_ms: u32 in (0..=WAIT_MS_MAX) = 500,
            /// How long the message stays hidden, in milliseconds.
            visibility_ms: u32 in (1..=LEASE_MS_MAX) = 30_000,
            /// The queue's name.
            name: name = b"mail",
        }

        /// The message was handled: forget it. Answered with [`Done`], its token 0.
        0x32 QueueAck<'a> "acknowledge in queue": level 1, gives_back -> Done {
            /// What makes it exactly-once.
            call: call = call(10, 9),
            /// The message's id.
            id: u64 = 78,
            /// The delivery that is acknowledged.
            delivery: u32 = 1,
            /// The queue's name.
            name: name = b"mail",
        }

        /// The message was not handled: make it ready again, after a delay. Answered with [`Done`].
        0x33 QueueNack<'a> "give back to queue": level 1, gives_back -> Done {
            /// What makes it exactly-once.
            call: call = call(11, 9),
            /// The message's id.
            id: u64 = 78,
            /// The delivery that is given back.
            delivery: u32 = 1,
            /// When it becomes ready, in milliseconds from now.
            delay_ms: u32 in (0..=LEASE_MS_MAX) = 1_000,
            /// The queue's name.
            name: name = b"mail",
        }
    }

    /// What is asked of cache lines.
    Cache CacheRequest<'a> {
        /// Reads a line, linearizably. Answered with [`Value`].
        0x40 CacheGet<'a> "get": level 1, reads -> Value {
            /// The line's key.
            key: name = b"user/1",
        }

        /// Writes a line. Answered with [`Done`], its token the new version.
        0x41 CachePut<'a> "put": level 1 -> Done {
            /// What makes it exactly-once.
            call: call = call(12, 12),
            /// With `expect` 2: the version that the line must have.
            version: u64 = 79,
            /// How long the line lives, in milliseconds; 0 = until it is replaced.
            ttl_ms: u32 in (0..=LINE_TTL_MS_MAX) = 60_000,
            /// 0 = whatever is there, 1 = nothing may be there, 2 = `version` must be there.
            expect: Expect = Expect::Version,
            /// The line's key.
            key: name = b"user/1",
            /// The value.
            value: value = b"Ada",
        }

        /// Deletes a line. Answered with [`Done`], its token the version that was deleted.
        0x42 CacheDelete<'a> "delete": level 1 -> Done {
            /// What makes it exactly-once.
            call: call = call(14, 13),
            /// With `expect` 2: the version that the line must have.
            version: u64 = 80,
            /// 0 = whatever is there, 2 = `version` must be there.
            expect: Expect in (Expect::Any | Expect::Version) = Expect::Version,
            /// The line's key.
            key: name = b"user/1",
        }
    }

    /// What is asked of the cluster.
    Admin AdminRequest<'a> {
        /// Asks a node for its state. Answered with [`StatusReply`].
        0x04 Status "ask for the status": level 1 -> StatusReply {
            /// Must be zero.
            reserved: u32 in (0..=0) = 0,
        }

        /// A node joins the cluster, or comes back with another data directory. Goes to the leader of the
        /// cluster's own group, whatever the header's shard; asked again it changes nothing. Answered with [`Done`].
        0x50 NodeAdd<'a> "add node": level 1 -> Done {
            /// The incarnation of its data directory.
            incarnation: id = id(0x80),
            /// Its id.
            node: u32 = 4,
            /// How many engines it has: as many as every node of the cluster.
            engines: u32 = 2,
            /// 0 = a node of this id must be new, 1 = it may take the place of one whose data directory is lost.
            replaces: u8 = 0,
            /// Where it is reached: UTF-8 "host:port".
            address: bytes = b"10.0.0.4:7400",
        }

        /// A node is to keep nothing any more: its replicas move to others, as far as there are any. Sent like
        /// [`NodeAdd`]. Answered with [`Done`] at once; who keeps what stands in each node's status.
        0x51 NodeDrain "drain node": level 1 -> Done {
            /// Its id.
            node: u32 = 4,
        }

        /// A node that was drained belongs to the cluster no more, and nobody speaks with it. Sent like [`NodeAdd`].
        /// Answered with [`Done`].
        0x52 NodeForget "forget node": level 1 -> Done {
            /// Its id.
            node: u32 = 4,
        }

        /// The leader of a group hands leadership over. Answered with [`Done`] once that is under way. Leadership goes
        /// back to where the placement prefers it, in time. Refused as `node-behind` if the replica is not heard or lacks
        /// too much, and as `busy` within a second of the leader's election or of the last hand-over.
        0x53 LeaderMove "move leader": level 1 -> Done {
            /// The group: 0 is the cluster's own, shard `s` is group `s + 1`.
            group: u32 = 3,
            /// The replica that is to lead.
            node: u32 = 2,
        }

        /// Asks the leader of a group for a snapshot of all that is committed now, to be read piece by piece. Answered with
        /// [`BackupReady`] once it is made; asked again for the same backup, by whichever connection, it is the same one.
        0x60 BackupBegin "begin backup": level 1 -> BackupReady {
            /// The backup: 16 random bytes, the same for all its groups.
            backup: id = id(0xb0),
            /// The group: 0 is the cluster's own, shard `s` is group `s + 1`.
            group: u32 = 3,
        }

        /// Asks for a piece of the snapshot that [`BackupBegin`] made, of the node that answered it. Answered with
        /// [`BackupPiece`]. The piece that ends the snapshot is given once: the node keeps the snapshot no longer.
        0x61 BackupRead "read backup": level 1 -> BackupPiece {
            /// The backup.
            backup: id = id(0xb0),
            /// The group.
            group: u32 = 3,
            /// Where the piece begins in the snapshot, in bytes.
            offset: u64 = 262_144,
        }
    }
}

messages! { ANSWERS:
    /// The answer to [`Hello`].
    0x81 Welcome {
        /// The cluster's id.
        cluster: id = id(0x10),
        /// This node's id.
        node: u32 = 2,
        /// The engine that this connection speaks to from now on.
        engine: u32 = 3,
        /// How many engines the node has.
        engines: u32 = 4,
        /// How many shards the cluster has.
        shards: u32 = 12,
        /// The placement epoch.
        epoch: u64 = 9,
        /// How many frames may be unanswered on this connection.
        credit_frames: u32 = 1024,
        /// How many bytes may be unanswered on this connection.
        credit_bytes: u32 = 4_194_304,
        /// The protocol version that both speak from now on.
        version: u8 = 1,
    }

    /// The answer to [`Heartbeat`].
    0x82 Alive<'a> {
        /// The shards that this engine leads and whose state gives the session a whole time to
        /// live from now on, each a little-endian u32. Only their guards move on in the client.
        shards: bytes = &[0, 0, 0, 0, 11, 0, 0, 0],
    }

    /// Where everything is. The rows are read with [`crate::topology`].
    0x83 TopologyReply<'a> {
        /// The placement epoch.
        epoch: u64 = 9,
        /// The cluster's id.
        cluster: id = id(0x10),
        /// How many shards the cluster has.
        shards: u32 = 1,
        /// The nodes, one row after the other.
        nodes: bytes = b"\x02\0\0\0\x04\0\0\0\x0e\x00127.0.0.1:7001",
        /// The shards' replicas and leaders, one row after the other.
        placement: bytes = b"\0\0\0\0\x02\0\0\0\x01\x02\0\0\0",
    }

    /// A node's state: the same JSON document as `GET /status`.
    0x84 StatusReply<'a> {
        /// UTF-8 JSON.
        json: bytes = b"{\"node\":2}",
    }

    /// A subscription stands.
    0x85 Watching {
        /// The cursor of the newest push that was sent to it, or from which it goes on; 0 = it begins anew.
        cursor: u64 = 0x0a0b_0c0d_0000_0007,
    }

    /// Something went wrong. On a request's id it answers that request; on request id 0 it is
    /// about the connection, which closes after it.
    0x8f Error<'a> {
        /// What happened, by number: [`crate::Code`].
        code: u16 = 7,
        /// When to try again, in milliseconds; 0 = no advice.
        retry_ms: u32 = 50,
        /// The node to go to instead; 0 = not known.
        node: u32 = 3,
        /// The engine of that node.
        engine: u32 = 1,
        /// What happened, to what, and what to do: UTF-8 for people.
        text: bytes = b"node 3 leads shard 4",
    }

    /// [`Error`] with a detail for programs: how things stood that the request was refused for. Only on connections of
    /// protocol version 2, and only with a detail.
    0x8e DetailedError<'a> {
        /// What happened, by number: [`crate::Code`].
        code: u16 = 41,
        /// When to try again, in milliseconds; 0 = no advice.
        retry_ms: u32 = 0,
        /// The node to go to instead; 0 = not known.
        node: u32 = 0,
        /// The engine of that node.
        engine: u32 = 0,
        /// What happened, to what, and what to do: UTF-8 for people.
        text: bytes = b"the line has another version",
        /// A detail: read with [`crate::Detail`].
        detail: bytes = b"\x01\x50\0\0\0\0\0\0\0",
    }

    /// The answer to a call that changed something.
    0x90 Done {
        /// What the call made: a lock's fence, a pushed message's id, a line's version; 0 = nothing.
        token: u64 = 0x1122_3344_5566_7788,
        /// The index up to which the shard's log was applied when this was answered.
        index: u64 = 0xffff_ffff_ffff_fffe,
    }

    /// A message, on its way to whoever popped it.
    0xb1 Delivery<'a> {
        /// The message's id.
        id: u64 = 78,
        /// How many times it has been delivered, this time included.
        delivery: u32 = 1,
        /// Its priority.
        priority: u8 = 9,
        /// The message.
        payload: bytes = b"hello",
    }

    /// A line's value.
    0xc0 Value<'a> {
        /// The line's version.
        version: u64 = 79,
        /// The value.
        value: bytes = b"Ada",
    }

    /// A group's snapshot is there, and is kept as long as it is read.
    0xe0 BackupReady {
        /// The index of the group's log that it stands for.
        index: u64 = 120_034,
        /// The term of the entry at that index.
        term: u64 = 5,
        /// Its size, in bytes.
        total: u64 = 300_000,
        /// What the cache lines of one shard may take in this cluster, in bytes.
        cache_bytes_max: u64 = 64 << 20,
    }

    /// A piece of a group's snapshot.
    0xe1 BackupPiece<'a> {
        /// Where it begins in the snapshot, in bytes.
        offset: u64 = 262_144,
        /// As much from there as fits, at least a byte.
        bytes: bytes = b"abc",
    }
}

messages! { PUSHES:
    /// Where something is, that was not so when the push before was sent. What changed in between comes once, as it is
    /// now. The rows are read with [`crate::topology`].
    0x86 TopologyPush<'a> {
        /// Where the reader stands with it. Cursors rise; another life of the node has others.
        cursor: u64 = 0x0a0b_0c0d_0000_0008,
        /// The placement epoch.
        epoch: u64 = 9,
        /// How many shards the cluster has.
        shards: u32 = 1,
        /// 1 = everything is told: whatever was known before is void. 0 = what changed.
        whole: u8 = 0,
        /// Every node, one row after the other; none = they are as they were.
        nodes: bytes = b"",
        /// The shards that changed: their replicas and leaders, one row after the other.
        placement: bytes = b"\0\0\0\0\x02\0\0\0\x01\x02\0\0\0",
    }
}

impl<'a> From<Error<'a>> for DetailedError<'a> {
    fn from(error: Error<'a>) -> DetailedError<'a> {
        let Error { code, retry_ms, node, engine, text } = error;
        DetailedError { code, retry_ms, node, engine, text, detail: &[] }
    }
}
