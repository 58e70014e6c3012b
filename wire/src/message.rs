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

use crate::header::Kind;
use crate::layout::{Field, WireError};
use alloc::vec::Vec;

macro_rules! message {
    ($(#[$doc:meta])* $kind:literal $name:ident $(<$lt:lifetime>)? {
        $($(#[$fdoc:meta])* $field:ident: [$($ty:tt)*],)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name $(<$lt>)? { $($(#[$fdoc])* pub $field: $($ty)*,)* }

        impl $(<$lt>)? $name $(<$lt>)? {
            /// The kind that a header names for this message.
            pub const KIND: Kind = Kind($kind);
            /// Bytes of the fixed part, at the end of a body.
            pub const FIXED: usize = 0 $(+ <$($ty)* as Field>::FIXED)*;

            /// Appends the message's body.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let start = out.len();
                $(let $field = self.$field.write_out(start, out);)*
                $(self.$field.write_fixed($field, start, out);)*
            }
        }

        $crate::message::message!(@decode $name $(<$lt>)? { $($field: [$($ty)*],)* });
    };
    (@decode $name:ident <$lt:lifetime> { $($field:ident: [$($ty:tt)*],)* }) => {
        impl<$lt> $name<$lt> {
            /// Reads a body by hand, as a client does.
            ///
            /// # Errors
            /// [`WireError::Malformed`] when the bytes are no such message.
            pub fn decode(body: &$lt [u8]) -> Result<Self, WireError> {
                let pos = body.len().checked_sub(Self::FIXED).ok_or(WireError::Malformed)?;
                $crate::message::message!(@fields body, pos, $($field: [$($ty)*],)*);
                Ok($name { $($field,)* })
            }
        }
        $crate::message::message!(@archive $name [$lt] { $($field: [$($ty)*],)* });
    };
    (@decode $name:ident { $($field:ident: [$($ty:tt)*],)* }) => {
        impl $name {
            /// Reads a body by hand, as a client does.
            ///
            /// # Errors
            /// [`WireError::Malformed`] when the bytes are no such message.
            pub fn decode(body: &[u8]) -> Result<Self, WireError> {
                let pos = body.len().checked_sub(Self::FIXED).ok_or(WireError::Malformed)?;
                $crate::message::message!(@fields body, pos, $($field: [$($ty)*],)*);
                Ok($name { $($field,)* })
            }
        }
        $crate::message::message!(@archive $name [] { $($field: [$($ty)*],)* });
    };
    (@fields $body:ident, $pos:ident, $($field:ident: [$($ty:tt)*],)*) => {
        let mut at = $pos;
        $(
            let $field = <$($ty)* as Field>::read($body, at)?;
            at += <$($ty)* as Field>::FIXED;
        )*
        debug_assert_eq!(at, $body.len());
    };
    (@archive $name:ident [$($lt:lifetime)?] { $($field:ident: [$($ty:tt)*],)* }) => {
        #[cfg(feature = "archive")]
        const _: () = {
            use $crate::message::archive::{Get, Own};
            #[derive(rkyv::Archive, rkyv::Serialize)]
            #[allow(missing_docs, dead_code)]
            pub struct Owned { $($field: $crate::message::owned!($($ty)*),)* }

            impl $(<$lt>)? $name $(<$lt>)? {
                /// Reads a body in place through rkyv's checked access, as the server does.
                ///
                /// # Errors
                /// [`WireError::Malformed`] when the bytes are no such message.
                pub fn view(body: & $($lt)? [u8]) -> Result<Self, WireError> {
                    let it = rkyv::access::<ArchivedOwned, rkyv::rancor::Failure>(body)
                        .map_err(|_| WireError::Malformed)?;
                    Ok($name { $($field: it.$field.get(),)* })
                }

                /// The body as rkyv itself serializes it. Tests hold it equal to
                /// `encode`'s.
                pub fn archived(&self) -> Vec<u8> {
                    let owned = Owned { $($field: self.$field.own(),)* };
                    let bytes = rkyv::to_bytes::<rkyv::rancor::Failure>(&owned);
                    bytes.expect("memory is all that it needs").into_vec()
                }
            }
        };
    };
}
pub(crate) use message;

/// The type that rkyv serializes for a field.
#[cfg(feature = "archive")]
macro_rules! owned {
    (&$lt:lifetime [u8]) => { Vec<u8> };
    ($($ty:tt)*) => { $($ty)* };
}
#[cfg(feature = "archive")]
pub(crate) use owned;

/// How a plain field and an archived one become each other.
#[cfg(feature = "archive")]
pub(crate) mod archive {
    use alloc::vec::Vec;
    use rkyv::rend::unaligned::{u16_ule, u32_ule, u64_ule};
    use rkyv::vec::ArchivedVec;

    /// The type that rkyv serializes for a field.
    pub trait Own {
        type Owned;
        fn own(&self) -> Self::Owned;
    }
    /// The plain field out of an archived one.
    pub trait Get<'a, T> {
        fn get(&'a self) -> T;
    }
    macro_rules! plain {
        ($($ty:ty, $archived:ty, $it:ident => $get:expr;)*) => {$(
            impl Own for $ty {
                type Owned = $ty;
                fn own(&self) -> $ty {
                    *self
                }
            }
            impl Get<'_, $ty> for $archived {
                fn get(&self) -> $ty {
                    let $it = self;
                    $get
                }
            }
        )*};
    }
    plain! {
        u8, u8, it => *it;
        u16, u16_ule, it => it.to_native();
        u32, u32_ule, it => it.to_native();
        u64, u64_ule, it => it.to_native();
        [u8; 16], [u8; 16], it => *it;
    }
    impl Own for &[u8] {
        type Owned = Vec<u8>;
        fn own(&self) -> Vec<u8> {
            self.to_vec()
        }
    }
    impl<'a> Get<'a, &'a [u8]> for ArchivedVec<u8> {
        fn get(&'a self) -> &'a [u8] {
            self.as_slice()
        }
    }
}

// ---- Connection ----

message! {
    /// The first frame of a connection, from whoever opened it. Answered with [`Welcome`].
    0x01 Hello<'a> {
        /// The cluster that the client belongs to; all zero = whichever answers.
        cluster: [[u8; 16]],
        /// The client's id: the session that its calls will carry, or all zero.
        client: [[u8; 16]],
        /// The engine of the node that this connection wants.
        engine: [u32],
        /// The lowest protocol version that the client speaks.
        version_min: [u8],
        /// The highest protocol version that the client speaks.
        version_max: [u8],
        /// A name for people to see in a list of connections, UTF-8, at most 64 bytes.
        name: [&'a [u8]],
        /// Opaque credentials; empty for now.
        credentials: [&'a [u8]],
    }
}
message! {
    /// The answer to [`Hello`].
    0x81 Welcome {
        /// The cluster's id.
        cluster: [[u8; 16]],
        /// This node's id.
        node: [u32],
        /// The engine that this connection speaks to from now on.
        engine: [u32],
        /// How many engines the node has.
        engines: [u32],
        /// How many shards the cluster has.
        shards: [u32],
        /// The placement epoch.
        epoch: [u64],
        /// How many frames may be unanswered on this connection.
        credit_frames: [u32],
        /// How many bytes may be unanswered on this connection.
        credit_bytes: [u32],
        /// The protocol version that both speak from now on.
        version: [u8],
    }
}
message! {
    /// A sign of life for a session, to each engine that the client uses. Any frame is one too.
    /// Answered with [`Alive`].
    0x02 Heartbeat {
        /// The session.
        session: [[u8; 16]],
    }
}
message! {
    /// The answer to [`Heartbeat`].
    0x82 Alive<'a> {
        /// The shards that this engine leads and whose state gives the session a whole time to
        /// live from now on, each a little-endian u32. Only their guards move on in the client.
        shards: [&'a [u8]],
    }
}
message! {
    /// Asks where everything is. Answered with [`TopologyReply`].
    0x03 Topology {
        /// The epoch that the client knows; 0 = none.
        known: [u64],
    }
}
message! {
    /// Where everything is. The rows are read with [`crate::topology`].
    0x83 TopologyReply<'a> {
        /// The placement epoch.
        epoch: [u64],
        /// The cluster's id.
        cluster: [[u8; 16]],
        /// How many shards the cluster has.
        shards: [u32],
        /// The nodes, one row after the other.
        nodes: [&'a [u8]],
        /// The shards' replicas and leaders, one row after the other.
        placement: [&'a [u8]],
    }
}
message! {
    /// Asks a node for its state. Answered with [`StatusReply`].
    0x04 Status {
        /// Must be zero.
        reserved: [u32],
    }
}
message! {
    /// A node's state: the same JSON document as `GET /status`.
    0x84 StatusReply<'a> {
        /// UTF-8 JSON.
        json: [&'a [u8]],
    }
}
message! {
    /// Something went wrong. On a request's id it answers that request; on request id 0 it is
    /// about the connection, which closes after it.
    0x8f Error<'a> {
        /// A [`crate::Code`].
        code: [u16],
        /// When to try again, in milliseconds; 0 = no advice.
        retry_ms: [u32],
        /// The node to go to instead; 0 = not known.
        node: [u32],
        /// The engine of that node.
        engine: [u32],
        /// What happened, to what, and what to do: UTF-8 for people.
        text: [&'a [u8]],
    }
}
message! {
    /// The answer to a call that changed something.
    0x90 Done {
        /// What the call made: a lock's fence, a pushed message's id, a line's version; 0 = nothing.
        token: [u64],
        /// The index up to which the shard's log was applied when this was answered.
        index: [u64],
    }
}

// ---- Sessions ----

message! {
    /// Opens a session in one shard; must come before any other call to it. Opening it again is
    /// harmless. Answered with [`Done`], its token 0.
    0x10 SessionOpen {
        /// The session: 128 random bits, never used again once it ended anywhere.
        session: [[u8; 16]],
        /// How long the session outlives its last sign of life, in milliseconds.
        ttl_ms: [u32],
    }
}
message! {
    /// Ends a session in one shard: its locks are released, its waiters leave, its messages
    /// in flight return to their queues. Answered with [`Done`].
    0x11 SessionClose {
        /// The session.
        session: [[u8; 16]],
    }
}

// ---- Locks ----

message! {
    /// Acquires a lock. Answered with [`Done`], its token the fence, once it is granted.
    0x20 LockAcquire<'a> {
        /// The session that will hold the lock.
        session: [[u8; 16]],
        /// The number of this call in its shard.
        sequence: [u64],
        /// All calls below were answered.
        answered_below: [u64],
        /// How long to wait, in milliseconds; 0 = try once.
        wait_ms: [u32],
        /// How long the grant lasts, in milliseconds; 0 = as long as the session.
        lease_ms: [u32],
        /// 1 = shared, 2 = exclusive.
        mode: [u8],
        /// The lock's name.
        name: [&'a [u8]],
    }
}
message! {
    /// Releases a lock. Answered with [`Done`], its token 0.
    0x21 LockRelease<'a> {
        /// The session that holds the lock.
        session: [[u8; 16]],
        /// The number of this call in its shard.
        sequence: [u64],
        /// All calls below were answered.
        answered_below: [u64],
        /// The fence that the grant gave.
        fence: [u64],
        /// The lock's name.
        name: [&'a [u8]],
    }
}

// ---- Queues ----

message! {
    /// Appends a message to a queue. Answered with [`Done`], its token the message's id.
    0x30 QueuePush<'a> {
        /// The session of the call.
        session: [[u8; 16]],
        /// The number of this call in its shard.
        sequence: [u64],
        /// All calls below were answered.
        answered_below: [u64],
        /// 0 is delivered first, 255 last.
        priority: [u8],
        /// The queue's name.
        name: [&'a [u8]],
        /// The message.
        payload: [&'a [u8]],
    }
}
message! {
    /// Takes the first ready message, hidden from others until its visibility runs out. Answered
    /// with [`Delivery`].
    0x31 QueuePop<'a> {
        /// The session of the call.
        session: [[u8; 16]],
        /// The number of this call in its shard.
        sequence: [u64],
        /// All calls below were answered.
        answered_below: [u64],
        /// How long to wait for a message, in milliseconds; 0 = try once.
        wait_ms: [u32],
        /// How long the message stays hidden, in milliseconds.
        visibility_ms: [u32],
        /// The queue's name.
        name: [&'a [u8]],
    }
}
message! {
    /// A message, on its way to whoever popped it.
    0xb1 Delivery<'a> {
        /// The message's id.
        id: [u64],
        /// How many times it has been delivered, this time included.
        delivery: [u32],
        /// Its priority.
        priority: [u8],
        /// The message.
        payload: [&'a [u8]],
    }
}
message! {
    /// The message was handled: forget it. Answered with [`Done`], its token 0.
    0x32 QueueAck<'a> {
        /// The session of the call.
        session: [[u8; 16]],
        /// The number of this call in its shard.
        sequence: [u64],
        /// All calls below were answered.
        answered_below: [u64],
        /// The message's id.
        id: [u64],
        /// The delivery that is acknowledged.
        delivery: [u32],
        /// The queue's name.
        name: [&'a [u8]],
    }
}
message! {
    /// The message was not handled: make it ready again, after a delay. Answered with [`Done`].
    0x33 QueueNack<'a> {
        /// The session of the call.
        session: [[u8; 16]],
        /// The number of this call in its shard.
        sequence: [u64],
        /// All calls below were answered.
        answered_below: [u64],
        /// The message's id.
        id: [u64],
        /// The delivery that is given back.
        delivery: [u32],
        /// When it becomes ready, in milliseconds from now.
        delay_ms: [u32],
        /// The queue's name.
        name: [&'a [u8]],
    }
}

// ---- Cache ----

message! {
    /// Reads a line, linearizably. Answered with [`Value`].
    0x40 CacheGet<'a> {
        /// The line's key.
        key: [&'a [u8]],
    }
}
message! {
    /// A line's value.
    0xc0 Value<'a> {
        /// The line's version.
        version: [u64],
        /// The value.
        value: [&'a [u8]],
    }
}
message! {
    /// Writes a line. Answered with [`Done`], its token the new version.
    0x41 CachePut<'a> {
        /// The session of the call.
        session: [[u8; 16]],
        /// The number of this call in its shard.
        sequence: [u64],
        /// All calls below were answered.
        answered_below: [u64],
        /// With `expect` 2: the version that the line must have.
        version: [u64],
        /// How long the line lives, in milliseconds; 0 = until it is replaced.
        ttl_ms: [u32],
        /// 0 = whatever is there, 1 = nothing may be there, 2 = `version` must be there.
        expect: [u8],
        /// The line's key.
        key: [&'a [u8]],
        /// The value.
        value: [&'a [u8]],
    }
}
message! {
    /// Deletes a line. Answered with [`Done`], its token the version that was deleted.
    0x42 CacheDelete<'a> {
        /// The session of the call.
        session: [[u8; 16]],
        /// The number of this call in its shard.
        sequence: [u64],
        /// All calls below were answered.
        answered_below: [u64],
        /// With `expect` 2: the version that the line must have.
        version: [u64],
        /// 0 = whatever is there, 2 = `version` must be there.
        expect: [u8],
        /// The line's key.
        key: [&'a [u8]],
    }
}

// ---- Nodes ----

message! {
    /// A node joins the cluster, or comes back with another data directory. Goes to the leader of the
    /// cluster's own group, whatever the header's shard; asked again it changes nothing. Answered with [`Done`].
    0x50 NodeAdd<'a> {
        /// The incarnation of its data directory.
        incarnation: [[u8; 16]],
        /// Its id.
        node: [u32],
        /// How many engines it has: as many as every node of the cluster.
        engines: [u32],
        /// 0 = a node of this id must be new, 1 = it may take the place of one whose data directory is lost.
        replaces: [u8],
        /// Where it is reached: UTF-8 "host:port".
        address: [&'a [u8]],
    }
}
message! {
    /// A node is to keep nothing any more: its replicas move to others, as far as there are any. Sent like
    /// [`NodeAdd`]. Answered with [`Done`] at once; who keeps what stands in each node's status.
    0x51 NodeDrain {
        /// Its id.
        node: [u32],
    }
}
message! {
    /// A node that was drained belongs to the cluster no more, and nobody speaks with it. Sent like [`NodeAdd`].
    /// Answered with [`Done`].
    0x52 NodeForget {
        /// Its id.
        node: [u32],
    }
}
message! {
    /// The leader of a group hands leadership over. Answered with [`Done`] once that is under way. Leadership goes
    /// back to where the placement prefers it, in time. Refused as `node-behind` if the replica is not heard or lacks
    /// too much, and as `busy` within a second of the leader's election or of the last hand-over.
    0x53 LeaderMove {
        /// The group: 0 is the cluster's own, shard `s` is group `s + 1`.
        group: [u32],
        /// The replica that is to lead.
        node: [u32],
    }
}

// ---- Backup ----

message! {
    /// Asks the leader of a group for a snapshot of all that is committed now, to be read piece by piece. Answered with
    /// [`BackupReady`] once it is made; asked again for the same backup, by whichever connection, it is the same one.
    0x60 BackupBegin {
        /// The backup: 16 random bytes, the same for all its groups.
        backup: [[u8; 16]],
        /// The group: 0 is the cluster's own, shard `s` is group `s + 1`.
        group: [u32],
    }
}
message! {
    /// A group's snapshot is there, and is kept as long as it is read.
    0xe0 BackupReady {
        /// The index of the group's log that it stands for.
        index: [u64],
        /// The term of the entry at that index.
        term: [u64],
        /// Its size, in bytes.
        total: [u64],
        /// What the cache lines of one shard may take in this cluster, in bytes.
        cache_bytes_max: [u64],
    }
}
message! {
    /// Asks for a piece of the snapshot that [`BackupBegin`] made, of the node that answered it. Answered with
    /// [`BackupPiece`]. The piece that ends the snapshot is given once: the node keeps the snapshot no longer.
    0x61 BackupRead {
        /// The backup.
        backup: [[u8; 16]],
        /// The group.
        group: [u32],
        /// Where the piece begins in the snapshot, in bytes.
        offset: [u64],
    }
}
message! {
    /// A piece of a group's snapshot.
    0xe1 BackupPiece<'a> {
        /// Where it begins in the snapshot, in bytes.
        offset: [u64],
        /// As much from there as fits, at least a byte.
        bytes: [&'a [u8]],
    }
}
