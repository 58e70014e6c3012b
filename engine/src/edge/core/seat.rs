//! An engine's place on a thread: the engine, its effects, its journal's files.

use crate::edge::bridge::{Fatal, Post, ToControl};
use crate::edge::clock;
use crate::edge::counters::Counters;
use crate::edge::data::{Plan, StartError};
use crate::edge::files;
use crate::edge::ring::Ring;
use crate::edge::snapshots::LoadError;
use crate::edge::wal::segments::{self, ReadError};
use crate::edge::wal::{self, Wal, witness};
use crate::effects::{Effects, News, Note};
use crate::engine::{Disk, Engine, Input, OpenError};
use crate::ids::{GroupId, Incarnation, Index};
use crate::journal::JournalError;
use crate::time::Time;
use std::collections::VecDeque;
use std::path::Path;

/// Messages for the control plane that are kept while it does not keep up; past it notes are dropped.
const KEPT_NOTES_MAX: usize = 1024;

/// An engine and what belongs to it alone.
pub(super) struct Seat {
    pub index: u32,
    pub engine: Engine,
    pub effects: Effects,
    pub wal: Wal,
    write_began: Time,
    /// Segments that could not be opened for want of a descriptor, and when to try again.
    unopened: Vec<(u32, Time)>,
}

impl Seat {
    /// Opens an engine from what is on its disk, or anew if that is damaged and may be.
    pub fn open(plan: &Plan, index: u32) -> Result<Seat, StartError> {
        loop {
            match (Seat::open_as_is(plan, index), &plan.repair) {
                (Err(StartError::Damaged { error, .. }), Some(repair)) => {
                    repair.renew(index, error)?;
                }
                (opened, _) => return opened,
            }
        }
    }

    fn open_as_is(plan: &Plan, index: u32) -> Result<Seat, StartError> {
        let dir = segments::engine_dir(&plan.data_dir, index);
        let failed = |what: &str| {
            let what = format!("{what} in {}", dir.display());
            move |error| StartError::Io { what, error }
        };
        let (bytes, writer) = (plan.segment_bytes, plan.writer);
        let is_new = segments::list(&dir).map_or(true, |segments| segments.is_empty());
        let witnesses =
            witness::load(&plan.data_dir, index).map_err(failed("reading witnesses"))?;
        let may_be_new = plan.repair.as_ref().is_none_or(|repair| repair.may_be_new(index));
        if is_new && !(may_be_new && witnesses.allow_new()) {
            return Err(StartError::Missing { engine: index, dir });
        }
        segments::ensure(&dir, bytes, writer).map_err(failed("making segments"))?;
        let mut maps = Vec::new();
        for (slot, path) in segments::list(&dir).map_err(failed("listing segments"))? {
            let map = segments::map(&path, bytes, writer).map_err(|error| match error {
                ReadError::Lost { offset } => {
                    let what = "the disk can't read it";
                    let error = JournalError::Damaged { slot, offset, what };
                    StartError::Damaged { engine: index, error: error.into() }
                }
                ReadError::Io(error) => failed("mapping segments")(error),
            });
            maps.push((slot, map?));
        }
        let slices: Vec<(u32, &[u8])> = maps.iter().map(|(slot, map)| (*slot, &map[..])).collect();
        let mut loaded = Ok(Found::No);
        let mut snapshot = |group: GroupId, at: Index, each: &mut dyn FnMut(&[u8])| {
            loaded = match (plan.load_snapshot)(index, group, at, each) {
                Ok(true) => Ok(Found::Yes),
                Ok(false) => Ok(Found::No),
                Err(error) => {
                    tracing::error!("{error}");
                    Err(error)
                }
            };
            matches!(loaded, Ok(Found::Yes))
        };
        let witness = witnesses.copies();
        let disk = Disk { segments: &slices, witness, snapshot: &mut snapshot };
        let mut effects = Effects::default();
        let mut config = (plan.make_config)(index);
        if plan.repair.as_ref().is_some_and(|repair| repair.is_renewed(index)) {
            config.incarnation = Incarnation::NOBODY;
        }
        let engine = Engine::open(config, clock::now(), disk, &mut effects)
            .map_err(|error| refusal(index, error, loaded))?;
        drop(slices);
        drop(maps);
        let mut wal = Wal::open(&dir, writer, bytes).map_err(failed("opening segments"))?;
        // All that was found was synced before it was read.
        let kept = witness::keep(&plan.data_dir, index, engine.witness());
        wal.attest(kept.map_err(failed("writing witnesses"))?);
        Ok(Seat { index, engine, effects, wal, write_began: Time::ZERO, unopened: Vec::new() })
    }

    /// Feeds one input.
    pub fn on(&mut self, now: Time, input: Input<'_>) {
        self.engine.on(now, input, &mut self.effects);
    }

    /// Puts the write that the engine asked for under way.
    pub fn start_write(
        &mut self,
        now: Time,
        ring: &mut Ring,
        token: u64,
        counters: &Counters,
    ) -> Result<(), Fatal> {
        let Some(write) = self.effects.write.take() else { return Ok(()) };
        counters.write_bytes.record(write.length as u64);
        self.write_began = now;
        let bytes = self.engine.in_flight();
        // SAFETY: the engine keeps these bytes in place, unchanged, until `Input::Synced` reports them
        // (its contract), which happens in `on_written` alone, after the completion; and a core that
        // ends cancels what is under way before it drops its engines.
        unsafe { self.wal.start(ring, &write, bytes, token) }
    }

    /// The write under way completed, or the next part of it may begin.
    pub fn on_written(
        &mut self,
        now: Time,
        ring: &mut Ring,
        result: i32,
        counters: &Counters,
    ) -> Result<(), Fatal> {
        let Some(position) = self.wal.on_completion(ring, result)? else { return Ok(()) };
        counters.sync_us.record_us(now.since(self.write_began));
        self.on(now, Input::Synced { position });
        Ok(())
    }

    /// A segment was made: open it, and tell the engine. For want of a descriptor it is opened later.
    pub fn on_segment(&mut self, now: Time, slot: u32) -> Result<(), Fatal> {
        match self.wal.reopen(slot) {
            Ok(()) => self.on(now, Input::SegmentReady { slot }),
            Err(error) if files::is_scarce(&error) => {
                tracing::warn!(slot, engine = self.index, "a segment waits for a free descriptor");
                self.unopened.push((slot, now + files::SCARCE_REST));
            }
            Err(error) => {
                let what = format!("segment {slot} of engine {}", self.index);
                return Err(wal::fatal(Path::new(&what), &error));
            }
        }
        Ok(())
    }

    /// Tries again to open what could not be opened.
    pub fn open_later(&mut self, now: Time) -> Result<(), Fatal> {
        while let Some((slot, _)) = self.unopened.pop_if(|(_, at)| *at <= now) {
            self.on_segment(now, slot)?;
        }
        Ok(())
    }

    /// When the engine or its files want to be looked at again.
    pub fn wake_at(&self) -> Time {
        let unopened = self.unopened.iter().map(|(_, at)| *at);
        unopened.chain([self.engine.wake_at()]).min().unwrap_or(Time::MAX)
    }

    /// Hands what the control plane has to do over to it, and gives what the other engines must know to
    /// `learned`.
    pub fn hand_over(
        &mut self,
        control: &mut Control,
        counters: &Counters,
        mut learned: impl FnMut(News),
    ) {
        let engine = self.index;
        for slot in self.effects.segments.drain(..) {
            control.send(ToControl::MakeSegment { engine, slot });
        }
        for part in self.effects.saves.drain(..) {
            counters.snapshot_bytes_sent.add(part.bytes.len() as u64);
            control.send(ToControl::SaveSnapshot { engine, part });
        }
        for (group, index) in self.effects.drops.drain(..) {
            control.send(ToControl::DropSnapshot { engine, group, index });
        }
        if self.effects.report.take().is_some() {
            control.send(ToControl::Report { engine });
        }
        for note in self.effects.notes.drain(..) {
            if let Some(news) = News::of(&note) {
                learned(news);
            }
            control.note(engine, note);
        }
    }
}

/// Whether there was a snapshot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Yes,
    No,
}

/// Tells damage from what is whole and not for this version; `loaded` is how the last snapshot was read.
fn refusal(engine: u32, error: OpenError, loaded: Result<Found, LoadError>) -> StartError {
    match (error, loaded) {
        (
            error @ (OpenError::Journal(JournalError::NewerFormat { .. })
            | OpenError::NewerLevel { .. }
            | OpenError::Contradiction { .. }),
            _,
        ) => StartError::Open { engine, error },
        (
            OpenError::Snapshot { group, index },
            Ok(Found::Yes) | Err(LoadError::OtherVersion { .. }),
        ) => StartError::Unread { engine, group, index },
        (OpenError::Snapshot { .. }, Err(LoadError::Io { path, why })) => {
            StartError::Io { what: format!("reading the snapshot {}", path.display()), error: why }
        }
        (error, _) => StartError::Damaged { engine, error },
    }
}

/// The way to the control plane: what does not fit into its mailbox waits here.
pub(super) struct Control {
    post: Post<ToControl>,
    kept: VecDeque<ToControl>,
    notes_dropped: u64,
}

impl Control {
    pub fn new(post: Post<ToControl>) -> Control {
        Control { post, kept: VecDeque::new(), notes_dropped: 0 }
    }

    /// Sends, now or later. What engines ask for is bounded by their segments and groups, and by
    /// the snapshots that lie in memory.
    pub fn send(&mut self, message: ToControl) {
        if !self.kept.is_empty() {
            self.kept.push_back(message);
        } else if let Err(message) = self.post.send(message) {
            self.kept.push_back(message);
        }
    }

    fn note(&mut self, engine: u32, note: Note) {
        if self.kept.len() < KEPT_NOTES_MAX {
            self.send(ToControl::Note { engine, note });
        } else {
            self.notes_dropped += 1;
        }
    }

    /// Sends what was kept, as far as it fits.
    pub fn flush(&mut self, counters: &Counters) {
        counters.notes_dropped.set(self.notes_dropped);
        while let Some(message) = self.kept.pop_front() {
            if let Err(message) = self.post.send(message) {
                self.kept.push_front(message);
                return;
            }
        }
    }

    /// Whether messages wait here: then the thread must not sleep long.
    pub fn is_waiting(&self) -> bool {
        !self.kept.is_empty()
    }
}
