//! Every limit of the client, by name.

use core::time::Duration;

/// Calls that may be open at a time in one client, waiting ones included.
pub const CALLS_MAX: usize = 16_384;
/// Bytes of the open calls' names and payloads, in one client.
pub const CALL_BYTES_MAX: usize = 64 << 20;
/// How long a connection may take to be made, and again to be welcomed.
pub const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a node may take to say where everything is before another one is asked.
pub const TOPOLOGY_MAX: Duration = Duration::from_secs(1);
/// A connection on which nothing was heard for this long, while an answer is due, is given up.
/// A third of the session's time to live, if that is less.
pub const SILENCE_MAX: Duration = Duration::from_secs(2);
/// The first pause before a call is tried again; it doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// The longest pause before a call is tried again.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// The longest pause before an address that failed is tried again.
pub const REST_MAX: Duration = Duration::from_secs(1);
/// Redirects that a call follows at once; further ones wait for the backoff.
pub const REDIRECTS_AT_ONCE: u32 = 3;
/// How long dropping the last handle waits for the session to be closed.
pub const DROP_LINGER: Duration = Duration::from_millis(200);
/// How long closing waits for the threads to end, once their sockets are shut.
pub const THREADS_END_MAX: Duration = Duration::from_secs(3);
/// Places in a shard's window that only what gives something back may take: as many as a server keeps frames for it
/// past a connection's credit.
pub const SEATS_RESERVED: u64 = 64;
/// How often an acquire that waits for another guard of the same client looks whether its wait, or a lease, is over.
pub const TURN_LOOK: Duration = Duration::from_millis(50);
/// Frames past a connection's credit that the client sends of what gives something back. A server takes
/// 64 of them, of 64 KiB in all.
pub const CREDIT_GIVE_BACK: usize = 48;
/// Calls of it that may be open beyond [`CALLS_MAX`].
pub const GIVE_BACKS_MAX: usize = CALLS_MAX;
/// The shortest pause between two askings for the topology. It doubles up to [`FETCH_PAUSE_MAX`] while they
/// tell nothing new.
pub const FETCH_PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause between two askings for the topology.
pub const FETCH_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Frames of a connection's credit that calls leave to heartbeats and openings.
pub const CREDIT_RESERVED: usize = 16;
/// Bytes of it that calls leave to them: each is far below this many.
pub const CREDIT_RESERVED_BYTES: usize = CREDIT_RESERVED * 256;
/// A call's frame beside its name and payload, at most: its header and its fixed part, in bytes.
pub const CALL_FRAME_BYTES_MAX: usize = 128;
/// How long a call about the cluster's nodes is tried.
pub const ADMIN_CALL_MAX: Duration = Duration::from_secs(20);
/// How long the answer to one sending of it may take.
pub const ADMIN_ANSWER_MAX: Duration = Duration::from_secs(5);
/// How often a group is begun again in a backup.
pub const BACKUP_TRIES_MAX: u32 = 20;
/// Heartbeats within a session's time to live. A node vouches for a whole time to live only while the
/// last renewal is at most a quarter of it old.
pub const HEARTBEATS_PER_TTL: u32 = 6;
/// The most connections to one engine.
pub const CONNECTIONS_MAX: u32 = 64;
/// How often whoever watches asks for a sign of life.
pub const WATCH_BEAT: Duration = Duration::from_millis(500);

const _: () = assert!(2 * WATCH_BEAT.as_nanos() < SILENCE_MAX.as_nanos());
const _: () = assert!(HEARTBEATS_PER_TTL > 4);
const _: () = assert!(wire::HEADER_BYTES + wire::message::CachePut::FIXED <= CALL_FRAME_BYTES_MAX);
const _: () = assert!(wire::HEADER_BYTES + wire::message::QueuePush::FIXED <= CALL_FRAME_BYTES_MAX);
const _: () = assert!(SEATS_RESERVED < wire::limits::WINDOW_REPLIES_MAX);
// The largest of them, a release, an acknowledgement or a negative one with the longest name, fits 64 KiB.
const _: () =
    assert!(CREDIT_GIVE_BACK * (CALL_FRAME_BYTES_MAX + wire::limits::NAME_BYTES_MAX) <= 64 << 10);
const _: () = assert!(FETCH_PAUSE_MIN.as_nanos() < FETCH_PAUSE_MAX.as_nanos());
const _: () = assert!(BACKOFF_MIN.as_nanos() < BACKOFF_MAX.as_nanos());
const _: () = assert!(CALL_BYTES_MAX > 2 * wire::limits::FRAME_BYTES_MAX);
