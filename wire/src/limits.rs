//! Every limit of the wire, by name. Each is enforced where a frame is split or a request vetted.

/// The longest name of a lock, queue or cache key, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// The longest payload of a message or value of a cache line, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The longest frame that a client may send or receive, header included, in bytes.
pub const FRAME_BYTES_MAX: usize = VALUE_BYTES_MAX + NAME_BYTES_MAX + 1024;
/// The longest frame between nodes, header included, in bytes.
pub const PEER_FRAME_BYTES_MAX: usize = 4 << 20;
/// The shortest session time to live, in milliseconds.
pub const SESSION_TTL_MS_MIN: u32 = 1_000;
/// The longest session time to live, in milliseconds.
pub const SESSION_TTL_MS_MAX: u32 = 600_000;
/// How long a group refuses the id of a session that ended, in milliseconds (20 minutes). Whoever opens one sends it
/// again for half as long at most.
pub const SESSION_ENDED_MS: u32 = 1_200_000;
/// How many replies a group remembers for a session: how far a sequence may run ahead of
/// `answered_below`.
pub const WINDOW_REPLIES_MAX: u64 = 256;
/// The longest wait of an acquire or a pop, in milliseconds.
pub const WAIT_MS_MAX: u32 = 600_000;
/// The longest lease, visibility timeout or delay, in milliseconds (12 hours).
pub const LEASE_MS_MAX: u32 = 43_200_000;
/// The longest time to live of a cache line, in milliseconds (30 days).
pub const LINE_TTL_MS_MAX: u32 = 2_592_000_000;
/// Pushes of one subscription that may be unread.
pub const PUSHES_UNREAD_MAX: u32 = 256;
/// How long a subscription may read nothing while more waits for it, in milliseconds. Then it is cut off.
pub const PUSH_READ_MS_MAX: u32 = 10_000;
/// The longest text of an error, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 512;
/// The longest detail of a refusal, in bytes.
pub const DETAIL_BYTES_MAX: usize = 512;

const _: () = assert!(FRAME_BYTES_MAX > VALUE_BYTES_MAX + NAME_BYTES_MAX + crate::HEADER_BYTES);
const _: () = assert!(PEER_FRAME_BYTES_MAX > 2 * FRAME_BYTES_MAX);
const _: () = assert!(SESSION_ENDED_MS >= 2 * SESSION_TTL_MS_MAX);
const _: () = assert!(SESSION_TTL_MS_MIN < SESSION_TTL_MS_MAX);
