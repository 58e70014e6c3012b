//! Error codes: stable numbers, each with what to do.

macro_rules! codes {
    ($($(#[$doc:meta])* $number:literal $name:ident $slug:literal $advice:literal,)*) => {
        /// Why a request was refused. The numbers are stable and never used again.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $name = $number,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The code of a number, unless no such code is known here.
            pub fn from_number(number: u16) -> Option<Code> {
                match number { $($number => Some(Code::$name),)* _ => None }
            }

            /// The stable number.
            pub fn number(self) -> u16 {
                self as u16
            }

            /// A short stable name, for logs and scripts.
            pub fn slug(self) -> &'static str {
                match self { $(Code::$name => $slug,)* }
            }

            /// What happened and what to do, for people.
            pub fn advice(self) -> &'static str {
                match self { $(Code::$name => $advice,)* }
            }
        }
    };
}

codes! {
    /// The stream is no sequence of frames.
    1 BadFrame "bad-frame" "the bytes are not a Tercet frame; the connection closes. Check that the client speaks this protocol",
    /// Another protocol version.
    2 WrongVersion "wrong-version" "no protocol version is spoken by both sides. Upgrade the older one",
    /// A frame or a value is over its limit.
    3 TooLarge "too-large" "the frame or value is over its limit. Store large data elsewhere and keep a reference to it",
    /// The kind is not known here.
    4 UnknownKind "unknown-kind" "this node does not know the request. Upgrade the node, or use an older client",
    /// The body is no message of its kind, or a field is out of range.
    5 BadMessage "bad-message" "a field of the request is malformed or out of its range. Correct the request",
    /// The client belongs to another cluster.
    6 WrongCluster "wrong-cluster" "this node belongs to another cluster. Check the address",
    /// Another node or engine leads the shard.
    7 NotLeader "not-leader" "another node leads this shard. Send the request to the node that the error names, or ask for the topology again",
    /// The name does not live in the shard that the header names.
    8 WrongShard "wrong-shard" "the name lives in another shard. Ask for the topology again",
    /// A limit is reached.
    9 Busy "busy" "a limit of the node is reached and nothing was done. Try again after the time that the error names",
    /// No leader is known, or it can't confirm that it leads.
    10 Unavailable "unavailable" "the shard has no confirmed leader right now. Try again; an election takes under a second",
    /// The request's deadline passed.
    11 DeadlineExceeded "deadline-exceeded" "the deadline passed before the request was begun; nothing was done",
    /// The session has ended or was never opened.
    12 SessionUnknown "session-unknown" "the session has ended or was never opened here. All that it held is gone: open a new one; whether open calls were applied is unknown",
    /// It can't be said whether the call was applied.
    13 OutcomeUnknown "outcome-unknown" "it is not known whether the call was applied. Look before you send it under a new sequence",
    /// The sequence is below what the client said was answered; so is that of a wait that it gave up.
    14 SequenceStale "sequence-stale" "the call was already answered and its reply forgotten, or it waited and was given up. Use a new sequence",
    /// The node is not part of a cluster yet.
    15 NotReady "not-ready" "the node belongs to no cluster yet. Start the other founders, or add it to the cluster",
    /// The group's feature level is below the one from which the request exists.
    16 LevelTooLow "level-too-low" "the cluster is at a lower feature level than the request needs, and nothing was done. Upgrade every node, and start none with a lower --level-max: the cluster then goes up by itself",
    /// A subscription read too slowly.
    17 PushesUnread "pushes-unread" "the subscription read nothing for too long while more waited for it, and has ended. Subscribe again with the cursor of the last push that was read",
    /// The lock is held by somebody else (a try).
    20 LockHeld "lock-held" "somebody else holds the lock. Wait for it with a wait time, or try later",
    /// The wait ran out.
    21 LockTimeout "lock-timeout" "the lock was not granted within the wait time",
    /// The caller does not hold the lock.
    22 NotHolder "not-holder" "this session does not hold the lock: it was released, or its lease ran out",
    /// The fence is not the holder's.
    23 StaleFence "stale-fence" "this session holds the lock with another fence: the grant of this one was lost since. Stop using what it protected",
    /// Too many waiters.
    24 WaitersFull "waiters-full" "too many callers wait for this name. Try again later",
    /// The queue has nothing ready.
    30 QueueEmpty "queue-empty" "no message is ready. Wait with a wait time, or try later",
    /// The queue is full.
    31 QueueFull "queue-full" "the queue is at its limit. Consume messages, then push again",
    /// No such message.
    32 MessageUnknown "message-unknown" "the queue has no such message: it was acknowledged already",
    /// Another delivery of the message is under way.
    33 StaleDelivery "stale-delivery" "the visibility timeout ran out and the message was delivered again. Its later delivery must be acknowledged",
    /// No such line.
    40 KeyUnknown "key-unknown" "the cache has no such line",
    /// The line's version is not the expected one.
    41 VersionMismatch "version-mismatch" "the line has another version. Read it again and decide anew",
    /// The value alone is over the byte budget.
    42 OverBudget "over-budget" "the value is larger than the whole cache may be. Raise the budget or store less",
    /// The state is at its limit of memory.
    50 StateFull "state-full" "the shard's state is at its limit. Remove something, or raise the limit",
    /// The node has stopped acknowledging.
    51 Stopping "stopping" "the node is stopping. Send the request to another node",
    /// The id is taken by another data directory.
    60 NodeKnown "node-known" "the cluster has a node of this id with another data directory. Give the new node another id, or say that it replaces the old one",
    /// No such node, or not there.
    61 NodeUnknown "node-unknown" "there is no such node here: not in the cluster, or not among those who keep the group",
    /// Nobody would be left.
    62 LastNode "last-node" "no node would be left. Add another one first",
    /// The node is not drained.
    63 NodeInUse "node-in-use" "the node may still keep replicas. Drain it, and wait until they have moved",
    /// No more nodes fit.
    64 NodesFull "nodes-full" "the cluster has as many nodes as it may have",
    /// The replica could not lead.
    65 NodeBehind "node-behind" "the node can't lead the group now: it is not heard, or lacks too much. Wait until it is back, or choose another one",
    /// The backup's snapshot is not kept here.
    70 BackupGone "backup-gone" "this node keeps no snapshot of the group for this backup: it was not read for too long, or the node was restarted. Begin the group again",
}
