use super::*;
use crate::call::{Errand, Op};
use crate::limits::SEATS_RESERVED;
use crate::pending::Slot;
use wire::limits::{FRAME_BYTES_MAX, WINDOW_REPLIES_MAX};
use wire::message::*;
use wire::topology::{Node, Placement, write_node, write_placement};
use wire::{Call, Code, Header, Kind};

const ONE: SessionKey = SessionKey(0);
const SHARDS: u32 = 2;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A core and what a test makes it live through. Node 1 and node 2 keep two shards, and node 1 leads them.
struct World {
    core: Core<Errand>,
    now: Moment,
    /// Every frame that was sent.
    all: Vec<u8>,
}

/// A frame that the core sent.
#[derive(Clone, PartialEq, Debug)]
struct Frame {
    link: LinkId,
    header: Header,
    body: Vec<u8>,
}

impl Frame {
    /// The sequence and the answered-below of a put.
    fn put(&self) -> (u64, u64) {
        let put = CachePut::decode(&self.body).unwrap();
        (put.call.sequence, put.call.answered_below)
    }
}

fn settings(sessions: u32, again: Again) -> Settings {
    Settings {
        addresses: vec![Arc::from("one:1")],
        map: None,
        session_ttl: Duration::from_secs(10),
        ready_within: Duration::from_secs(3),
        lanes: 1,
        again,
        sessions,
        resume: None,
        seed: *b"a seed of chance",
    }
}

fn topology(leader: u32) -> Vec<u8> {
    let (mut nodes, mut placement, mut body) = (Vec::new(), Vec::new(), Vec::new());
    for (id, address) in [(1, "one:1"), (2, "two:1")] {
        write_node(&Node { id, engines: 1, address: address.into() }, &mut nodes);
    }
    for shard in 0..SHARDS {
        write_placement(&Placement { shard, leader, replicas: vec![1, 2] }, &mut placement);
    }
    let (nodes, placement) = (&nodes, &placement);
    TopologyReply { epoch: 1, cluster: [7; 16], shards: SHARDS, nodes, placement }
        .encode(&mut body);
    body
}

impl World {
    /// A core that knows where everything is.
    fn new(sessions: u32, again: Again) -> World {
        let now = Moment(1_000_000);
        let core = Core::new(now, settings(sessions, again));
        let mut world = World { core, now, all: Vec::new() };
        let link = world.connect();
        let asked = world.sent();
        assert_eq!(asked.len(), 1);
        world.hear(link, TopologyReply::KIND, asked[0].header.request, &topology(1));
        assert!(matches!(world.core.next_event(), Some(Event::Ready)));
        world
    }

    /// Makes the connection that the core asks for.
    fn connect(&mut self) -> LinkId {
        loop {
            let event = self.core.next_event().expect("a connection is asked for");
            let Event::Connect { link, engine, .. } = event else { continue };
            let welcome = Welcome {
                cluster: [7; 16],
                node: 1,
                engine,
                engines: 1,
                shards: SHARDS,
                epoch: 1,
                credit_frames: 512,
                credit_bytes: 1 << 20,
                version: 1,
            };
            self.core.on_connected(self.now, link, &welcome);
            return link;
        }
    }

    /// What was sent since the last look.
    fn sent(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(link) = self.core.next_to_send() {
            let bytes = std::mem::take(self.core.bytes_of(link).unwrap());
            let mut rest = &bytes[..];
            while let Some(frame) = wire::split(rest, FRAME_BYTES_MAX).unwrap() {
                rest = &rest[frame.used..];
                frames.push(Frame { link, header: frame.header, body: frame.body.to_vec() });
            }
            assert!(rest.is_empty(), "frames are whole");
            self.all.extend(bytes);
        }
        frames
    }

    fn kinds(&mut self) -> Vec<Kind> {
        self.sent().iter().map(|frame| frame.header.kind).collect()
    }

    fn hear(&mut self, link: LinkId, kind: Kind, request: u64, body: &[u8]) -> Option<String> {
        let header = Header::new(kind, request);
        let finished = self.core.on_frame(self.now, link, &header, body);
        finished.map(|finished| format!("{:?}", finished.outcome))
    }

    /// A node answers that something was done.
    fn done(&mut self, frame: &Frame, token: u64) -> Option<String> {
        let mut body = Vec::new();
        Done { token, index: 9 }.encode(&mut body);
        self.hear(frame.link, Done::KIND, frame.header.request, &body)
    }

    fn refuse(&mut self, frame: &Frame, code: Code, node: u32) -> Option<String> {
        let mut body = Vec::new();
        let (code, engine, text) = (code.number(), 0, &b"words"[..]);
        Error { code, retry_ms: 0, node, engine, text }.encode(&mut body);
        self.hear(frame.link, Error::KIND, frame.header.request, &body)
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.core.wake_at() <= until {
            self.now = self.now.max(self.core.wake_at());
            self.core.tick(self.now);
        }
        self.now = until;
        self.core.tick(self.now);
    }

    fn ask(&mut self, session: SessionKey, shard: u32, op: Op) -> CallId {
        let (limit, caller) = (Duration::from_secs(5), Caller::Waits);
        let ask = Errand { op, slot: Some(Arc::<Slot>::default()) };
        let order = Order { ask, session, shard: Some(shard), limit, bound: None, caller };
        self.core.submit(self.now, order)
    }

    fn put(&mut self, session: SessionKey, shard: u32) -> CallId {
        let (call, version, ttl_ms, expect) = (Call::NONE, 0, 0, Expect::Any);
        let put = CachePut { call, version, ttl_ms, expect, key: b"k", value: b"v" };
        self.ask(session, shard, Op::new(put))
    }

    /// A session that is open in a shard, with one put behind it.
    fn open(&mut self, session: SessionKey, shard: u32) {
        self.put(session, shard);
        for frame in self.sent() {
            self.done(&frame, 1);
        }
        while self.core.next_event().is_some() {}
    }

    fn finished(&mut self) -> Vec<(CallId, String)> {
        let mut all = Vec::new();
        while let Some(finished) = self.core.next_finished() {
            all.push((finished.call, format!("{:?}", finished.outcome)));
        }
        all
    }
}

fn acquire(wait_ms: u32) -> Op {
    leased(LockMode::Exclusive, wait_ms, 0)
}

fn leased(mode: LockMode, wait_ms: u32, lease_ms: u32) -> Op {
    Op::new(LockAcquire { call: Call::NONE, wait_ms, lease_ms, mode, name: b"l" })
}

fn release(fence: u64) -> Op {
    Op::new(LockRelease { call: Call::NONE, fence, name: b"l" })
}

#[test]
fn the_opening_goes_ahead_and_an_answer_ends_its_call() {
    let mut world = World::new(1, Again::Waits);
    let call = world.put(ONE, 0);
    let sent = world.sent();
    let kinds: Vec<Kind> = sent.iter().map(|frame| frame.header.kind).collect();
    assert_eq!(kinds, [SessionOpen::KIND, CachePut::KIND]);
    assert_eq!(sent[1].put(), (1, 1));
    assert_eq!(world.core.until(ONE, 0), Some(Moment::MAX), "it is being opened");
    assert_eq!(world.done(&sent[0], 0), None);
    let until = world.now + surely(Duration::from_secs(10));
    assert_eq!(world.core.until(ONE, 0), Some(until));
    let event = world.core.next_event();
    assert!(
        matches!(event, Some(Event::Renewed { standing, .. }) if standing.until == until),
        "{event:?}"
    );
    assert!(world.core.ask(call).is_some());
    let outcome = world.done(&sent[1], 5).unwrap();
    assert!(outcome.contains("token: 5"), "{outcome}");
    assert!(world.core.ask(call).is_none() && world.core.calls() == 0);
    assert_eq!(world.done(&sent[1], 5), None, "it is answered once");
}

#[test]
fn a_call_keeps_its_sequence_over_a_lost_connection_and_a_late_answer_is_none() {
    let mut world = World::new(1, Again::Waits);
    world.open(ONE, 0);
    world.put(ONE, 0);
    let first = world.sent().remove(0);
    world.core.on_closed(world.now, first.link, Trouble::world("cut"));
    world.pass(ms(300));
    world.connect();
    let again = world.sent().into_iter().find(|f| f.header.kind == CachePut::KIND).unwrap();
    assert_eq!(again.put(), first.put());
    assert_ne!(again.link, first.link);
    assert_eq!(world.done(&first, 1), None, "of a connection that is gone");
    assert!(world.done(&again, 1).is_some());
}

#[test]
fn a_call_whose_answer_is_none_of_its_kind_is_asked_again_elsewhere() {
    let mut world = World::new(1, Again::Waits);
    world.open(ONE, 0);
    world.put(ONE, 0);
    let first = world.sent().remove(0);
    let mut body = Vec::new();
    Value { version: 1, value: b"v" }.encode(&mut body);
    assert_eq!(world.hear(first.link, Value::KIND, first.header.request, &body), None);
    let event = world.core.next_event();
    assert!(matches!(event, Some(Event::Close { link }) if link == first.link), "{event:?}");
    world.pass(ms(300));
    world.connect();
    let again = world.sent().into_iter().find(|f| f.header.kind == CachePut::KIND).unwrap();
    assert_eq!(again.put(), first.put());
    assert!(world.done(&again, 1).is_some());
}

#[test]
fn a_core_that_is_told_where_everything_is_asks_nobody() {
    let map = World::new(1, Again::Waits).core.map().cloned();
    let settings = Settings { map, ..settings(1, Again::Waits) };
    let core = Core::new(Moment(1_000_000), settings);
    let mut world = World { core, now: Moment(1_000_000), all: Vec::new() };
    assert!(world.core.next_event().is_none() && world.core.wake_at() == Moment::MAX);
    world.put(ONE, 1);
    world.connect();
    assert_eq!(world.kinds(), [SessionOpen::KIND, CachePut::KIND]);
}

#[test]
fn a_redirect_is_followed_and_remembered() {
    let mut world = World::new(1, Again::Waits);
    world.open(ONE, 0);
    world.put(ONE, 0);
    let first = world.sent().remove(0);
    assert_eq!(world.refuse(&first, Code::NotLeader, 2), None);
    let two = world.connect();
    let again = world.sent().into_iter().find(|f| f.header.kind == CachePut::KIND).unwrap();
    assert_eq!((again.link, again.put()), (two, first.put()));
    world.done(&again, 1);
    world.put(ONE, 0);
    assert!(world.sent().iter().all(|frame| frame.link == two));
    world.core.believe(world.now, 0, 1);
    world.put(ONE, 0);
    assert!(world.sent().iter().all(|frame| frame.link == first.link), "as it is told");
}

#[test]
fn sessions_of_a_core_have_windows_and_ends_of_their_own() {
    let mut world = World::new(2, Again::IsSent);
    let other = SessionKey(1);
    for session in [ONE, other] {
        world.open(session, 0);
    }
    let room = WINDOW_REPLIES_MAX - SEATS_RESERVED;
    for _ in 0..room + 5 {
        world.put(ONE, 0);
    }
    assert_eq!(world.sent().len() as u64, room);
    let unanswered = world.put(other, 0);
    let sent = world.sent();
    assert_eq!((sent.len(), sent[0].put()), (1, (2, 2)));

    let ids = [world.core.session_id(ONE), world.core.session_id(other)];
    let outcome = world.refuse(&sent[0], Code::SessionUnknown, 0);
    assert_eq!(outcome, None, "the end of a session comes as data");
    let finished = world.finished();
    assert_eq!(finished.len(), 1, "{finished:?}");
    assert!(finished[0].0 == unanswered && finished[0].1.contains("SessionLost"));
    let event = world.core.next_event();
    assert!(
        matches!(event, Some(Event::Ended { session, id, .. }) if (session, id) == (other, ids[1]))
    );
    assert_eq!(world.core.session_id(ONE), ids[0]);
    assert_ne!(world.core.session_id(other), ids[1]);
    assert_eq!(world.kinds(), [SessionClose::KIND], "the old one is closed where it was");
}

#[test]
fn a_core_sends_what_its_session_may_hold_only_if_it_is_to() {
    for (again, sent) in [(Again::Waits, 1), (Again::IsSent, 2)] {
        let mut world = World::new(1, again);
        world.open(ONE, 0);
        world.ask(ONE, 0, acquire(500));
        world.ask(ONE, 0, acquire(500));
        assert_eq!(world.kinds(), vec![LockAcquire::KIND; sent]);
    }
}

#[test]
fn a_release_of_a_guard_whose_lease_is_over_takes_no_other_guards_turn() {
    let mut world = World::new(1, Again::Waits);
    world.open(ONE, 0);
    world.ask(ONE, 0, leased(LockMode::Exclusive, 500, 100));
    let first = world.sent().remove(0);
    assert!(world.done(&first, 7).is_some());
    world.ask(ONE, 0, acquire(4_000));
    assert_eq!(world.kinds(), []);
    world.pass(ms(200));
    let second = world.sent().remove(0);
    assert_eq!(second.header.kind, LockAcquire::KIND, "the first one's lease is over");
    // The shard's clock stood still: to it the first grant is held, and counts one more.
    assert!(world.done(&second, 7).is_some());
    world.ask(ONE, 0, acquire(4_000));
    for (released, sent) in [("the first", vec![]), ("the second", vec![LockAcquire::KIND])] {
        world.ask(ONE, 0, release(7));
        let release = world.sent().remove(0);
        assert!(world.done(&release, 0).is_some());
        assert_eq!(world.kinds(), sent, "{released} was released");
    }
}

#[test]
fn of_shared_guards_under_one_fence_the_longest_lease_stays_as_one_is_released() {
    let mut world = World::new(1, Again::Waits);
    world.open(ONE, 0);
    for lease_ms in [0, 100] {
        world.ask(ONE, 0, leased(LockMode::Shared, 500, lease_ms));
        let granted = world.sent().remove(0);
        assert!(world.done(&granted, 7).is_some());
    }
    world.ask(ONE, 0, release(7));
    let release = world.sent().remove(0);
    assert!(world.done(&release, 0).is_some());
    world.ask(ONE, 0, acquire(4_000));
    world.pass(ms(300));
    assert_eq!(world.kinds(), [], "the shard may still count the one without a lease");
}

#[test]
fn a_wait_that_is_given_up_leaves_its_place_and_ends_as_it_is_answered() {
    let mut world = World::new(1, Again::IsSent);
    world.open(ONE, 0);
    let waits = world.ask(ONE, 0, acquire(60_000));
    let acquire = world.sent().remove(0);
    world.put(ONE, 0);
    assert_eq!(world.sent()[0].put(), (3, 2), "it holds the window back");
    world.core.cancel(waits);
    world.core.cancel(waits);
    world.put(ONE, 0);
    assert_eq!(world.sent()[0].put(), (4, 3));
    assert_eq!(world.refuse(&acquire, Code::SequenceStale, 0), None);
    let finished = world.finished();
    assert!(finished[0].0 == waits && finished[0].1.contains("Unknown"), "{finished:?}");
    world.put(ONE, 0);
    assert_eq!(world.sent()[0].put(), (5, 3));
}

#[test]
fn a_call_may_be_asked_twice_at_once() {
    let mut world = World::new(1, Again::Waits);
    world.open(ONE, 0);
    let call = world.put(ONE, 0);
    world.core.ask_again(world.now, call);
    let sent = world.sent();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].put(), sent[1].put());
    assert_ne!(sent[0].header.request, sent[1].header.request);
    assert_eq!(world.done(&sent[0], 1), None, "the later one counts");
    assert!(world.done(&sent[1], 1).is_some());
}

#[test]
fn timers_of_calls_that_were_answered_leave_nothing() {
    let mut world = World::new(1, Again::Waits);
    world.open(ONE, 0);
    for _ in 0..5_000 {
        for _ in 0..4 {
            world.put(ONE, 0);
        }
        for frame in world.sent() {
            assert!(world.done(&frame, 1).is_some());
        }
        world.now = world.now + Duration::from_micros(10);
    }
    assert!(world.core.timers.len() <= 8, "{}", world.core.timers.len());
    // And a call that is not answered ends at its own deadline, though its place has an older entry.
    world.now = world.now + ms(100);
    let call = world.put(ONE, 0);
    world.sent();
    world.pass(ms(4_999));
    assert!(world.core.ask(call).is_some());
    world.pass(ms(2));
    let finished = world.finished();
    assert!(finished[0].0 == call && finished[0].1.contains("NoAnswer"), "{finished:?}");
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let life = || {
        let mut world = World::new(3, Again::Waits);
        for n in 0..200 {
            world.put(SessionKey(n % 3), n % SHARDS);
            world.ask(SessionKey(n % 3), n % SHARDS, acquire(50));
            for (at, frame) in world.sent().into_iter().enumerate() {
                let known = frame.header.kind != Heartbeat::KIND;
                match at % 4 {
                    0 if n % 50 == 49 => {
                        world.core.on_closed(world.now, frame.link, Trouble::world("cut"));
                    }
                    1 => drop(world.refuse(&frame, Code::Busy, 0)),
                    _ if frame.header.kind == Topology::KIND => {
                        let request = frame.header.request;
                        world.hear(frame.link, TopologyReply::KIND, request, &topology(1));
                    }
                    _ if known => drop(world.done(&frame, 1)),
                    _ => {}
                }
            }
            world.pass(ms(20));
            while let Some(event) = world.core.next_event() {
                if let Event::Connect { link, engine, .. } = event {
                    let (cluster, node, engines, shards) = ([7; 16], 1, 1, SHARDS);
                    let (epoch, credit_frames, credit_bytes, version) = (1, 512, 1 << 20, 1);
                    let welcome = Welcome {
                        cluster,
                        node,
                        engine,
                        engines,
                        shards,
                        epoch,
                        credit_frames,
                        credit_bytes,
                        version,
                    };
                    world.core.on_connected(world.now, link, &welcome);
                }
            }
        }
        (world.finished(), world.sent(), world.all)
    };
    let (one, other) = (life(), life());
    assert!(one.2.len() > 10_000, "{} bytes", one.2.len());
    assert!(one == other);
}

#[test]
fn what_is_left_is_closed_and_then_nothing_is() {
    let mut world = World::new(2, Again::Waits);
    world.open(ONE, 0);
    world.open(SessionKey(1), 1);
    let open = world.put(ONE, 0);
    world.sent();
    world.core.leave(world.now, ms(500));
    assert_eq!(world.finished().len(), 1, "{open:?} has an end");
    let closes = world.sent();
    assert!(closes.len() == 2 && closes.iter().all(|f| f.header.kind == SessionClose::KIND));
    assert_eq!(world.put(ONE, 0), CallId(Key::NONE), "nothing new is taken");
    assert_eq!(world.finished().len(), 1);
    let left = |world: &mut World| {
        let events = std::iter::from_fn(|| world.core.next_event());
        events.filter(|event| matches!(event, Event::Left)).count()
    };
    world.done(&closes[0], 0);
    assert_eq!(left(&mut world), 0);
    world.done(&closes[1], 0);
    assert_eq!(left(&mut world), 1);
    world.core.vanish(world.now);
    assert!(matches!(world.core.next_event(), Some(Event::Ended { .. })));
    assert_eq!((world.core.phase(), world.core.wake_at()), (Phase::Gone, Moment::MAX));
}

mod window {
    use crate::core::window::Window;
    use wire::limits::WINDOW_REPLIES_MAX;

    #[test]
    fn answers_out_of_order_move_the_mark_when_the_gap_closes() {
        let mut window = Window::new(1);
        let taken: Vec<u64> = (0..4).map(|call| window.take(call, 256).unwrap()).collect();
        assert_eq!(taken, [1, 2, 3, 4]);
        window.free(2);
        window.free(3);
        assert_eq!((window.answered_below(), window.oldest()), (1, Some((1, 0))));
        window.free(1);
        assert_eq!((window.answered_below(), window.oldest()), (4, Some((4, 3))));
        window.free(4);
        assert_eq!((window.answered_below(), window.oldest()), (5, None));
    }

    #[test]
    fn one_open_call_stops_the_window_after_as_many_as_a_group_remembers() {
        let mut window = Window::new(1 << 40);
        let first = window.take(0, WINDOW_REPLIES_MAX).unwrap();
        for call in 1..WINDOW_REPLIES_MAX as u32 {
            let sequence = window.take(call, WINDOW_REPLIES_MAX).unwrap();
            window.free(sequence);
        }
        assert_eq!(window.take(1, WINDOW_REPLIES_MAX), None);
        window.free(first);
        assert_eq!(window.answered_below(), (1 << 40) + WINDOW_REPLIES_MAX);
        assert!(window.take(1, WINDOW_REPLIES_MAX).is_some());
    }
}

mod slab {
    use crate::core::slab::{Key, Slab};

    #[test]
    fn a_place_that_is_used_again_has_another_key() {
        let mut slab = Slab::default();
        let one = slab.insert("one");
        let two = slab.insert("two");
        assert_eq!(slab.remove(one), Some("one"));
        assert_eq!((slab.remove(one), slab.get(one), slab.len()), (None, None, 1));
        let three = slab.insert("three");
        assert_eq!(three.index(), one.index());
        assert_ne!(three, one);
        assert_eq!((slab[three], slab[two], slab.get(one)), ("three", "two", None));
        assert_eq!(Key::of_number(three.number()), three);
        assert_eq!((slab.get(Key::NONE), slab.get(Key::of_number(0))), (None, None));
        let keys: Vec<Key> = slab.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [three, two]);
    }
}
