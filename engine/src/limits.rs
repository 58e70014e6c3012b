//! Every limit of the engine, by name.

use crate::entry::ENTRY_HEADER_BYTES;

/// The longest payload of an entry, in bytes: any client's body, or a batch of renewals.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = wire::limits::FRAME_BYTES_MAX;
/// Entries of one group that are not committed yet, in bytes. Past it a leader answers `Busy`.
pub const UNCOMMITTED_BYTES_MAX: usize = 8 << 20;
/// Beside those, for a leader's own entries alone, in bytes: renewals, ticks, changes of members.
pub const UNCOMMITTED_OWN_BYTES_MAX: usize = 1 << 20;
/// Requests that wait in a group's leader before they are proposed. Past it a leader answers `Busy`.
pub const STAGED_MAX: usize = 4096;
/// The same in bytes.
pub const STAGED_BYTES_MAX: usize = 4 << 20;
/// Requests beside those that give something back: release, acknowledge, nack, close.
pub const STAGED_RESERVED: usize = 256;
/// Log that a group keeps in memory for followers that lag a little, in bytes. One that lags further
/// gets a snapshot.
pub const LOG_KEPT_BYTES_MAX: usize = 1 << 20;
/// Log that a leader keeps in memory while a follower that answers is being caught up, in bytes.
pub const LOG_PINNED_BYTES_MAX: usize = 64 << 20;
/// Entries on their way to one follower and not answered yet, in bytes.
pub const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;
/// Entries in one message to a follower, in bytes.
pub const APPEND_BYTES_MAX: usize = 1 << 20;
/// A piece of a snapshot in one message, in bytes.
pub const SNAPSHOT_PIECE_BYTES_MAX: usize = 256 << 10;
/// Pieces of a snapshot on their way to one follower and not answered yet, in bytes.
pub const SNAPSHOT_IN_FLIGHT_BYTES_MAX: usize = 1 << 20;
/// Voters of a group.
pub const VOTERS_MAX: usize = 9;
/// Members of a group: voters and learners.
pub const MEMBERS_MAX: usize = 16;
/// How many entries a learner may lack when it is promoted.
pub const LEARNER_LAG_ENTRIES_MAX: u64 = 256;
/// How long a leader keeps a snapshot that no follower takes, and a follower the pieces of one that does not go on, in
/// milliseconds.
pub const SNAPSHOT_IDLE_MS_MAX: u64 = 10_000;
/// Rows that one slice of a snapshot walks, restores or frees. A row costs a few waits for memory.
pub const SLICE_ROWS_MAX: usize = 128;
/// Bytes that one slice of a snapshot makes or reads, but for its last row.
pub const SLICE_BYTES_MAX: usize = 64 << 10;
/// Bytes of snapshots that wait to be written, of one thread; past it none is made further.
pub const SNAPSHOT_UNWRITTEN_BYTES_MAX: u64 = 16 << 20;
/// How long a snapshot for a backup is kept that nobody reads, in milliseconds.
pub const BACKUP_IDLE_MS_MAX: u64 = 10_000;
/// Snapshots for backups that an engine keeps in memory at a time.
pub const BACKUPS_MAX: usize = 1;
/// A sync unit of the journal, in bytes.
pub const UNIT_BYTES_MAX: usize = 16 << 20;
/// Frames of one connection that may be unanswered.
pub const CREDIT_FRAMES: u32 = 1024;
/// Bytes of one connection's frames that may be unanswered.
pub const CREDIT_BYTES: u32 = 4 << 20;
/// Clients of one engine that wait for the node's state at a time.
pub const REPORT_ASKERS_MAX: usize = 64;
/// Subscriptions of an engine's clients.
pub const SUBSCRIPTIONS_MAX: usize = 1024;
/// Frames past the credit that may still give something back: release, acknowledge, nack, close.
pub const CREDIT_FRAMES_RESERVED: u32 = 64;
/// The same in bytes.
pub const CREDIT_BYTES_RESERVED: u32 = 64 << 10;
/// An answer that is given whatever waits for its client, in bytes of its value: such answers are bounded by the credit.
pub const ANSWER_SMALL_BYTES_MAX: usize = 4 << 10;
/// Answers to one client in one turn, in bytes; what is larger than small comes in a later turn.
pub const ANSWERS_CLIENT_BYTES_MAX: usize = 1 << 20;
/// Answers larger than small to all clients of an engine in one turn, in bytes, but for the last.
pub const ANSWERS_TURN_BYTES_MAX: usize = 4 << 20;
/// Bytes that wait for one client, past which it gets no answer larger than small until it has read half of them.
pub const CLIENT_FULL_BYTES: usize = 4 << 20;
/// The same while much waits for all clients together.
pub const CLIENT_FULL_BYTES_CROWDED: usize = 256 << 10;
/// Bytes that wait for a client, past which it is disconnected: it sends past its credit and does not read.
pub const CLIENT_OUTBOX_BYTES_MAX: usize = 16 << 20;
/// Bytes that wait for a peer; past it messages to it are dropped, as a network would.
pub const PEER_OUTBOX_BYTES_MAX: usize = 32 << 20;
/// Timers that one entry fires, below [`Level::BOUNDED`](crate::level::Level::BOUNDED).
pub const TIMERS_PER_ENTRY_MAX: usize = 256;
/// Steps that an entry takes of what is due and of what is unfinished, from that level on. A step is a timer that
/// fires, a grant or a message that is given back, a grant that is made, a wait that ends.
pub const STEPS_PER_ENTRY_MAX: u32 = 256;
/// The same of a tick, which is there for nothing else.
pub const STEPS_PER_TICK_MAX: u32 = 1024;
/// The same of one timer that fires; what is left is unfinished.
pub const STEPS_PER_TIMER_MAX: u32 = 64;
/// Steps that an entry takes of what it brings about itself; what is left is unfinished.
pub const STEPS_PER_CALL_MAX: u32 = 256;
/// Unfinished things that an entry goes on with, each with an equal share.
pub const UNFINISHED_AT_ONCE: usize = 16;
/// Sessions in one group.
pub const SESSIONS_MAX: usize = 100_000;
/// Ended sessions that a group remembers below that level, so that none is opened twice.
pub const SESSIONS_ENDED_MAX: usize = 4096;
/// Sessions in one group, those included that ended within [`SESSION_ENDED_MS`](wire::limits::SESSION_ENDED_MS): past
/// it none is opened.
pub const SESSIONS_REMEMBERED_MAX: usize = 500_000;
/// Waiters on one lock or queue.
pub const WAITERS_MAX: usize = 65_536;
/// Nodes of a cluster.
pub const NODES_MAX: usize = 1024;
/// Grants in one group, and calls that wait for one.
pub const GRANTS_MAX: usize = 4_000_000;
/// Locks in one group.
pub const LOCKS_MAX: usize = 1_000_000;
/// Queues in one group.
pub const QUEUES_MAX: usize = 100_000;
/// What the messages of one group may take, overhead included, in bytes.
pub const MESSAGE_BYTES_MAX: u64 = 2 << 30;
/// Messages in one queue.
pub const QUEUE_MESSAGES_MAX: usize = 10_000_000;
/// Mail of one group to others that was not taken there yet.
pub const MAIL_MAX: usize = 1024;
/// The same in bytes.
pub const MAIL_WAITING_BYTES_MAX: usize = 1 << 20;
/// One mail, in bytes.
pub const MAIL_BYTES_MAX: usize = 16 << 10;
/// Mails that are carried together, and taken by one entry.
pub const MAIL_BATCH_MAX: usize = 256;
/// The same in bytes, but for the last one.
pub const MAIL_BATCH_BYTES_MAX: usize = 64 << 10;
/// What one probe says, in bytes.
pub const PROBE_BYTES_MAX: usize = 4 << 10;
/// What the groups of an engine send to other groups in one turn, in bytes. Past it a parcel is dropped, as a network
/// would.
pub const PARCELS_TURN_BYTES_MAX: usize = 2 << 20;
/// Session ids in one renewal entry.
pub const RENEWALS_PER_ENTRY_MAX: usize = 4096;

// Whoever keeps to its credit is never disconnected, however much it asks for at once.
const _: () = assert!(
    CLIENT_FULL_BYTES
        + ANSWERS_CLIENT_BYTES_MAX
        + wire::limits::FRAME_BYTES_MAX
        + (CREDIT_FRAMES + CREDIT_FRAMES_RESERVED) as usize * (ANSWER_SMALL_BYTES_MAX + 256)
        <= CLIENT_OUTBOX_BYTES_MAX
);
const _: () = assert!(CLIENT_FULL_BYTES_CROWDED < CLIENT_FULL_BYTES);
const _: () = assert!(APPEND_BYTES_MAX > ENTRY_HEADER_BYTES + 64);
const _: () = assert!(STEPS_PER_ENTRY_MAX >= UNFINISHED_AT_ONCE as u32);
const _: () = assert!(STEPS_PER_TIMER_MAX <= STEPS_PER_ENTRY_MAX);
const _: () = assert!(SESSIONS_MAX + SESSIONS_ENDED_MAX < SESSIONS_REMEMBERED_MAX);
const _: () = assert!(LOCKS_MAX <= GRANTS_MAX);
const _: () = assert!(STAGED_BYTES_MAX <= UNCOMMITTED_BYTES_MAX);
const _: () = assert!(STAGED_BYTES_MAX > 2 * wire::limits::FRAME_BYTES_MAX);
const _: () = assert!(LOG_KEPT_BYTES_MAX <= LOG_PINNED_BYTES_MAX);
const _: () = assert!(VOTERS_MAX < MEMBERS_MAX);
const _: () = assert!(MAIL_BYTES_MAX <= MAIL_BATCH_BYTES_MAX);
const _: () = assert!(MAIL_BATCH_BYTES_MAX + MAIL_BYTES_MAX <= ENTRY_PAYLOAD_BYTES_MAX);
const _: () = assert!(MAIL_BATCH_BYTES_MAX + MAIL_BYTES_MAX <= PARCELS_TURN_BYTES_MAX);
const _: () = assert!(PROBE_BYTES_MAX <= PARCELS_TURN_BYTES_MAX);
const _: () = assert!(SNAPSHOT_PIECE_BYTES_MAX <= SNAPSHOT_IN_FLIGHT_BYTES_MAX);
const _: () = assert!(SNAPSHOT_PIECE_BYTES_MAX as u64 <= SNAPSHOT_UNWRITTEN_BYTES_MAX);
const _: () = assert!(SLICE_BYTES_MAX <= SNAPSHOT_PIECE_BYTES_MAX);
const _: () = assert!(SNAPSHOT_PIECE_BYTES_MAX + 1024 < wire::limits::PEER_FRAME_BYTES_MAX);
const _: () = assert!(CREDIT_BYTES as usize >= 2 * wire::limits::FRAME_BYTES_MAX);
const _: () = assert!(UNIT_BYTES_MAX > 2 * (ENTRY_PAYLOAD_BYTES_MAX + ENTRY_HEADER_BYTES));
const _: () = assert!(UNCOMMITTED_BYTES_MAX + UNCOMMITTED_OWN_BYTES_MAX < UNIT_BYTES_MAX);
const _: () = assert!(UNCOMMITTED_OWN_BYTES_MAX >= 2 * RENEWALS_PER_ENTRY_MAX * 16);
const _: () = assert!(ENTRY_PAYLOAD_BYTES_MAX + 1024 < wire::limits::PEER_FRAME_BYTES_MAX);
const _: () = assert!(RENEWALS_PER_ENTRY_MAX * 16 <= ENTRY_PAYLOAD_BYTES_MAX);
