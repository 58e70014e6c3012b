//! What a group's entries mean: the meta group's machine, or a shard's.

use crate::entry::Entry;
use crate::ids::{ClusterId, GroupId, SessionId};
use crate::level::Level;
use crate::machine::meta::Meta;
use crate::machine::{self, Applied, DeliveryView, Machine, Wake};
use crate::machine::{Probe, ReadAsk, Restore, Restored, Slice, SliceProgress, View, Warm};
use crate::status::MachineStatus;
use crate::time::{Duration, Elapsed};
use alloc::boxed::Box;
use alloc::vec::Vec;
use wire::{Code, Kind};

/// A group's state.
pub enum State {
    /// The meta group's: the cluster itself. With what its leader proposes while it is empty.
    Meta(Box<Meta>, Vec<(Kind, Vec<u8>)>),
    /// A shard's: sessions, locks, queues, cache lines.
    Data(Box<Machine>),
}

/// Why a snapshot can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the snapshot's bytes are not a state of this version")]
pub struct Unreadable;

/// A state that is being made from a snapshot whose checksum is right.
pub enum Restoring {
    /// The meta group's: its bytes so far, and what its leader proposes while it is empty.
    Meta(Vec<u8>, Vec<(Kind, Vec<u8>)>),
    /// A shard's.
    Data(Restore),
}

impl Restoring {
    /// Takes the next piece of the bytes.
    pub fn feed(&mut self, piece: &[u8]) {
        match self {
            Restoring::Meta(bytes, _) => bytes.extend_from_slice(piece),
            Restoring::Data(restore) => restore.feed(piece),
        }
    }

    /// Reads a slice of what was fed.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn slice(&mut self, slice: Slice) -> Result<Restored, Unreadable> {
        match self {
            Restoring::Meta(..) => Ok(Restored::Hungry),
            Restoring::Data(restore) => restore.slice(slice).map_err(|_| Unreadable),
        }
    }

    /// The state, once all was fed.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn finish(self) -> Result<State, Unreadable> {
        Ok(match self {
            Restoring::Meta(bytes, founding) => {
                let meta = Meta::restore(&bytes).map_err(|_| Unreadable)?;
                State::Meta(Box::new(meta), founding)
            }
            Restoring::Data(restore) => {
                State::Data(Box::new(restore.finish().map_err(|_| Unreadable)?))
            }
        })
    }
}

impl State {
    /// An empty state of `group`.
    pub fn new(
        group: GroupId,
        config: &machine::MachineConfig,
        founding: Vec<(Kind, Vec<u8>)>,
    ) -> State {
        match group {
            GroupId::META => State::Meta(Box::default(), founding),
            _ => State::Data(Box::new(Machine::new(*config))),
        }
    }

    /// Appends the state's bytes: equal states give equal bytes.
    #[cfg(any(test, feature = "simulator"))]
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        match self {
            State::Meta(meta, _) => meta.snapshot(out),
            State::Data(machine) => machine.snapshot(out),
        }
    }

    /// Appends the state's bytes as a snapshot in slices gives them: what is to be restored. None is in the making.
    pub fn snapshot_whole(&mut self, out: &mut Vec<u8>) {
        match self {
            State::Meta(meta, _) => meta.snapshot(out),
            State::Data(machine) => machine.snapshot_whole(out),
        }
    }

    /// Begins a snapshot of the state as it is now, to be made in slices; a small one is made at once.
    pub fn snapshot_begin(&mut self, out: &mut Vec<u8>) -> SliceProgress {
        match self {
            State::Meta(meta, _) => {
                meta.snapshot(out);
                SliceProgress::Done
            }
            State::Data(machine) => {
                machine.snapshot_begin(out);
                SliceProgress::More
            }
        }
    }

    /// Appends the next slice of the snapshot that was begun.
    pub fn snapshot_slice(&mut self, slice: Slice, out: &mut Vec<u8>) -> SliceProgress {
        match self {
            State::Meta(..) => SliceProgress::Done,
            State::Data(machine) => machine.snapshot_slice(slice, out),
        }
    }

    /// Begins to make the state that the bytes of a snapshot stand for, in slices.
    pub fn restore_begin(&self, config: &machine::MachineConfig) -> Restoring {
        match self {
            State::Meta(_, founding) => Restoring::Meta(Vec::new(), founding.clone()),
            State::Data(_) => Restoring::Data(Restore::new(*config)),
        }
    }

    /// Frees a slice of a state that is of no use any more.
    pub fn shed(&mut self, slice: Slice) -> SliceProgress {
        match self {
            State::Meta(..) => SliceProgress::Done,
            State::Data(machine) => machine.shed(slice),
        }
    }

    /// Looks ahead at some cache lines; changes nothing.
    pub fn warm<'k>(&self, keys: impl Iterator<Item = &'k [u8]>, warm: &mut Warm) {
        if let State::Data(machine) = self {
            machine.warm(keys, warm);
        }
    }

    /// Applies an entry, as one of `kind`.
    pub fn apply(&mut self, kind: Kind, entry: &Entry<'_>, wakes: &mut Vec<Wake>) -> Applied {
        match self {
            State::Meta(meta, _) => {
                let outcome = meta.apply(kind, entry.payload);
                outcome.map_or(Applied::Nothing, Applied::Done)
            }
            State::Data(machine) => machine.apply(entry.header.time, kind, entry.payload, wakes),
        }
    }

    /// The group's feature level.
    pub fn level(&self) -> Level {
        match self {
            State::Meta(meta, _) => meta.level(),
            State::Data(machine) => machine.level(),
        }
    }

    /// The highest time applied.
    pub fn clock(&self) -> Elapsed {
        match self {
            State::Meta(..) => Elapsed::ZERO,
            State::Data(machine) => machine.clock(),
        }
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Elapsed> {
        match self {
            State::Meta(..) => None,
            State::Data(machine) => machine.next_deadline(),
        }
    }

    /// How many sessions live.
    pub fn sessions(&self) -> usize {
        match self {
            State::Meta(..) => 0,
            State::Data(machine) => machine.sessions(),
        }
    }

    /// How many sessions ended without being closed, since this state was made or read.
    pub fn sessions_expired(&self) -> u64 {
        match self {
            State::Meta(..) => 0,
            State::Data(machine) => machine.sessions_expired(),
        }
    }

    /// When a session ends if it is not renewed.
    pub fn session_deadline(&self, session: SessionId) -> Option<Elapsed> {
        match self {
            State::Meta(..) => None,
            State::Data(machine) => machine.session_deadline(session),
        }
    }

    /// A session's time to live, while it lives.
    pub fn session_ttl(&self, session: SessionId) -> Option<Duration> {
        match self {
            State::Meta(..) => None,
            State::Data(machine) => machine.session_ttl(session),
        }
    }

    /// What a read shows. `probe`: where its name was found, if that was looked at.
    #[inline]
    pub(super) fn read(&self, probe: Option<Probe>, ask: ReadAsk<'_>, at: Elapsed) -> View<'_> {
        match self {
            State::Meta(..) => View::Refused(Code::UnknownKind),
            State::Data(machine) => machine.read(probe, ask, at),
        }
    }

    /// The message of a delivery, while it is there.
    pub fn delivery(&self, delivery: (u64, u32)) -> Option<DeliveryView<'_>> {
        match self {
            State::Meta(..) => None,
            State::Data(machine) => machine.delivery(delivery),
        }
    }

    /// What the meta group's leader proposes while the cluster is not in its state yet.
    pub fn founding(&self) -> &[(Kind, Vec<u8>)] {
        match self {
            State::Meta(meta, founding) if meta.cluster() == ClusterId::NONE => founding,
            _ => &[],
        }
    }

    /// The meta group's state, once the cluster is born in it.
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            State::Meta(meta, _) if meta.cluster() != ClusterId::NONE => Some(meta),
            _ => None,
        }
    }

    /// Whether mail for other groups waits.
    pub fn has_mail(&self) -> bool {
        match self {
            State::Meta(..) => false,
            State::Data(machine) => machine.has_mail(),
        }
    }

    /// The groups for which mail waits, with the number of the first.
    pub fn mail_waiting(&self) -> impl Iterator<Item = (GroupId, u64)> {
        let machine = match self {
            State::Meta(..) => None,
            State::Data(machine) => Some(machine),
        };
        machine.into_iter().flat_map(|machine| machine.mail_waiting())
    }

    /// What waits for a group, in order.
    pub fn mail_for(&self, to: GroupId) -> impl Iterator<Item = &[u8]> {
        let machine = match self {
            State::Meta(..) => None,
            State::Data(machine) => Some(machine),
        };
        machine.into_iter().flat_map(move |machine| machine.mail_for(to))
    }

    /// The last number that was taken of a group's mail.
    pub fn mail_taken(&self, from: GroupId) -> u64 {
        match self {
            State::Meta(..) => 0,
            State::Data(machine) => machine.mail_taken(from),
        }
    }

    /// What it holds, for people.
    pub fn status(&self) -> MachineStatus {
        match self {
            State::Meta(..) => MachineStatus::default(),
            State::Data(machine) => machine.status(),
        }
    }

    /// The mail that was taken since this was asked last.
    #[cfg(any(test, feature = "simulator"))]
    pub fn drain_took(&mut self) -> Vec<machine::Took> {
        match self {
            State::Meta(..) => Vec::new(),
            State::Data(machine) => machine.drain_took().collect(),
        }
    }
}
