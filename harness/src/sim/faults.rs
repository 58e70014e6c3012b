//! What goes wrong, and when.

use super::{Event, NODES, World};
use engine::time::Duration;

/// How this run's world is: seeds differ in kind, not only in chance.
pub(super) struct Temper {
    /// The longest that a write takes to be synced.
    pub(super) sync_micros_max: u64,
    /// One message in so many is late.
    pub(super) late_one_in: u32,
    /// The longest that a late message takes.
    pub(super) late_micros_max: u64,
    /// The longest from one fault to the next.
    pub(super) fault_every_millis_max: u64,
    /// The journal's segment, in bytes: so small that journals become full.
    pub(super) segment_bytes: u64,
    /// The journal's segments, at most.
    pub(super) segments_max: u32,
    /// The longest that a snapshot takes to be saved.
    pub(super) save_millis_max: u64,
    /// The longest value that clients write, in bytes.
    pub(super) value_bytes_max: usize,
}

impl Temper {
    pub(super) fn draw(seeds: &mut fastrand::Rng) -> Temper {
        let mut one_of = |values: [u64; 3]| values[seeds.usize(..3)];
        Temper {
            sync_micros_max: one_of([400, 5_000, 60_000]),
            late_one_in: one_of([5, 50, 200]) as u32,
            late_micros_max: one_of([2_000, 20_000, 200_000]),
            fault_every_millis_max: one_of([200, 600, 1_500]),
            segment_bytes: one_of([64 << 10, 128 << 10, 256 << 10]),
            segments_max: one_of([4, 5, 6]) as u32,
            save_millis_max: one_of([50, 150, 500]),
            value_bytes_max: one_of([8, 512, 4 << 10]) as usize,
        }
    }
}

impl World {
    pub(super) fn plan_faults(&mut self) {
        let end = self.options.faulty;
        let mut at = Duration::from_millis(self.faults.u64(300..1500));
        while at < end {
            let lasts = Duration::from_millis(self.faults.u64(20..1800));
            match self.faults.u32(..10) {
                0..=3 => {
                    let node = self.faults.u32(..NODES);
                    self.plan(at, Event::Crash { node });
                    self.plan(at + lasts, Event::Start { node });
                }
                4..=5 => {
                    for node in 0..NODES {
                        self.plan(at, Event::Crash { node });
                        let late = Duration::from_millis(self.faults.u64(0..300));
                        self.plan(at + late, Event::Start { node });
                    }
                }
                _ => {
                    let blocked = self.cut();
                    self.plan(at, Event::Cut { blocked });
                    self.plan(at + lasts, Event::Cut { blocked: Vec::new() });
                }
            }
            let every = self.temper.fault_every_millis_max;
            at += Duration::from_millis(self.faults.u64(50..every));
        }
    }

    /// Links to cut: both ways or one, around one node or anywhere.
    pub(super) fn cut(&mut self) -> Vec<(u32, u32)> {
        let all = (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let alone = self.faults.u32(..NODES);
        match self.faults.u32(..3) {
            0 => all.filter(|(a, b)| *a == alone || *b == alone).collect(),
            1 => all.filter(|(a, _)| *a == alone).collect(),
            _ => all.filter(|_| self.faults.bool()).collect(),
        }
    }

    pub(super) fn calm_down(&mut self) {
        self.blocked.clear();
        // Faults that were planned past the end are void, starts are not.
        self.bodies.values_mut().for_each(|event| {
            if let Event::Crash { node } = event {
                *event = Event::Start { node: *node };
            } else if let Event::Cut { blocked } = event {
                blocked.clear();
            }
        });
        for node in 0..NODES {
            self.plan(Duration::from_millis(1), Event::Start { node });
        }
        self.clients.finish();
    }
}
