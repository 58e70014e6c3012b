//! How a thread carries out what its engines ask for.

use super::seat::Seat;
use super::{Broken, Core, Op, token};
use crate::edge::bridge::{Fatal, ToCore};
use crate::edge::clock;
use crate::edge::data::thread_of;
use crate::edge::net::{Crowd, Role};
use crate::effects::News;
use crate::engine::Input;
use crate::ids::NodeId;
use crate::limits::{CLIENT_OUTBOX_BYTES_MAX, PEER_OUTBOX_BYTES_MAX, SNAPSHOT_UNWRITTEN_BYTES_MAX};
use crate::machine::Slice;
use crate::time::Time;
use wire::limits::PEER_FRAME_BYTES_MAX;

impl Core {
    /// Ends the engines' turns and carries their effects out, in the order that `Effects` demands.
    pub(super) fn end_turn(&mut self, now: Time) -> Result<(), Broken> {
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            seat.engine.end_turn(now, &mut seat.effects);
            if let Some(outdated) = seat.effects.outdated {
                return Err((seat.index, Fatal::Outdated(outdated)));
            }
            let token = token(Op::Write, at as u64);
            let started = seat.start_write(now, &mut self.ring, token, &self.counters);
            started.map_err(|fatal| (seat.index, fatal))?;
            self.queue_peers(now, at);
            self.queue_clients(now, at).map_err(|error| self.ring_failed(error))?;
            self.part_closed(now, at);
            self.hand_over(now, at).map_err(|error| self.ring_failed(error))?;
        }
        self.tell_crowd(now);
        Ok(())
    }

    /// Lets each engine do a slice of what takes long, once the turn's answers are on their way. Its
    /// effects are carried out with the next turn's, which comes at once. While the disk does not keep up
    /// with the snapshots, nothing is done.
    pub(super) fn work(&mut self, now: Time) {
        let counters = &self.counters;
        let unwritten = counters.snapshot_bytes_sent.get() - counters.snapshot_bytes_written.get();
        self.halted = false;
        for seat in &mut self.seats {
            if !seat.engine.has_work() {
                continue;
            }
            if unwritten > SNAPSHOT_UNWRITTEN_BYTES_MAX {
                self.halted = true;
                return;
            }
            let began = clock::thread_cpu();
            seat.engine.work(now, Slice::SHORT, &mut seat.effects);
            let spent = clock::thread_cpu().saturating_sub(began);
            counters.snapshot_us.record_us(spent);
            let us = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
            counters.snapshot_us_max.set(counters.snapshot_us_max.get().max(us));
        }
    }

    /// Tells the engines when more waits for all clients together than may, and when that is over.
    fn tell_crowd(&mut self, now: Time) {
        let Some(crowd) = self.net.crowd() else { return };
        for seat in &mut self.seats {
            match crowd {
                Crowd::Begins => seat.on(now, Input::Crowded),
                Crowd::Ends => seat.on(now, Input::Eased),
            }
        }
        self.again = true;
    }

    fn queue_peers(&mut self, now: Time, at: usize) {
        let (net, links, counters) = (&mut self.net, &self.links, &self.counters);
        self.seats[at].effects.peers.drain(|node, bytes| {
            let queued = match links.route(at, NodeId(node)) {
                Some(conn) if net.is(conn) => {
                    net.queue(now, conn.index, bytes, PEER_OUTBOX_BYTES_MAX).is_ok()
                }
                _ => false,
            };
            if !queued {
                counters.peer_bytes_dropped.add(bytes.len() as u64);
            }
        });
    }

    fn queue_clients(&mut self, now: Time, at: usize) -> std::io::Result<()> {
        let mut slow = std::mem::take(&mut self.indices);
        let net = &mut self.net;
        let Seat { engine, effects, .. } = &mut self.seats[at];
        let mut clients = std::mem::take(&mut effects.clients);
        clients.drain(|index, bytes| {
            if net.role(index) != (Role::Client { seat: at }) {
                return;
            }
            if net.queue(now, index, bytes, CLIENT_OUTBOX_BYTES_MAX).is_err() {
                slow.push(index);
            } else if net.is_filled(index) {
                engine.on(now, Input::Filled { conn: net.id(index) }, effects);
            }
        });
        assert!(effects.clients.is_empty(), "nobody is answered because much waits");
        effects.clients = clients;
        for index in slow.drain(..) {
            self.counters.connections_slow.add(1);
            tracing::info!("closing a connection that reads too slowly");
            self.lose(now, index)?;
            self.again = true;
        }
        self.indices = slow;
        Ok(())
    }

    /// Closes what the engine wants closed, once its bytes are sent.
    fn part_closed(&mut self, now: Time, at: usize) {
        while let Some(conn) = self.seats[at].effects.closes.pop() {
            if self.net.is(conn) {
                self.leave(now, conn.index);
                self.net.part(now, conn.index);
                self.again = true;
            }
        }
    }

    /// Hands the rest over to the control plane, and leaders and nodes on to the other engines.
    fn hand_over(&mut self, now: Time, at: usize) -> std::io::Result<()> {
        let mut learned = std::mem::take(&mut self.learned);
        let seat = &mut self.seats[at];
        seat.hand_over(&mut self.control, &self.counters, |news| learned.push(news));
        for news in learned.drain(..) {
            self.pass_on(now, at, &news);
        }
        self.learned = learned;
        for (engine, frame) in std::mem::take(&mut self.seats[at].effects.across) {
            self.pass_across(now, engine, frame);
        }
        match self.seats[at].effects.nodes.take() {
            Some(nodes) => self.learn(now, Some(at), &nodes.into()),
            None => Ok(()),
        }
    }

    /// Tells every other engine of this node what one of them learned.
    fn pass_on(&mut self, now: Time, from: usize, news: &News) {
        for (at, seat) in self.seats.iter_mut().enumerate() {
            if at != from {
                seat.on(now, Input::of(news));
                self.again = true;
            }
        }
        for (thread, post) in self.common.posts.iter().enumerate() {
            // A hint that is lost costs a client one more redirect.
            if thread != self.thread && post.send(ToCore::News(news.clone())).is_err() {
                tracing::warn!(thread, ?news, "a leader hint was lost: the mailbox is full");
            }
        }
    }

    /// Brings a frame to another engine of this node. One for which there is no room is lost, as a network would lose it.
    pub(super) fn pass_across(&mut self, now: Time, engine: u32, frame: Vec<u8>) {
        let thread = thread_of(engine, self.common.plan.threads);
        if thread != self.thread {
            // It is sent again where that matters.
            let _ = self.common.posts[thread].send(ToCore::Across { engine, frame });
            return;
        }
        let split = wire::split(&frame, PEER_FRAME_BYTES_MAX);
        let split = split.expect("an engine sends frames").expect("whole ones");
        let (header, body) = (split.header, split.body);
        self.seat(engine).on(now, Input::Across { header, body });
        self.again = true;
    }
}
