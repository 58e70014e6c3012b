//! What a thread does with its peers: dial them, check them, take their links up.

use super::Core;
use crate::edge::bridge::{ToControl, ToCore};
use crate::edge::data::thread_of;
use crate::edge::links::{Identity, Verdict};
use crate::edge::net::Role;
use crate::effects::News;
use crate::engine::Input;
use crate::ids::NodeId;
use crate::limits::PEER_OUTBOX_BYTES_MAX;
use crate::machine::meta::Meta;
use crate::time::Time;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use wire::Code;
use wire::peer::PeerHello;

impl Core {
    /// Begins the connections that are due.
    pub(super) fn dial(&mut self, now: Time) -> io::Result<()> {
        while self.stop_by.is_none() {
            let Some(link) = self.links.due(now) else { return Ok(()) };
            let peer = self.links.get(link).peer;
            let begun = match self.common.addresses.get(peer) {
                Some(to) => self.dial_one(now, link, to)?,
                None => None,
            };
            if begun.is_none() {
                self.links.on_failed(now, link);
            }
        }
        Ok(())
    }

    fn dial_one(&mut self, now: Time, link: usize, to: SocketAddr) -> io::Result<Option<u32>> {
        let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Ok(None);
        }
        // SAFETY: the kernel just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let index = self.net.insert(now, fd, Role::Dialing { link });
        let (address, length) = self.links.on_dial(link, self.net.id(index), to);
        // SAFETY: the address is the link's own, in a box, and is written again only by the next attempt,
        // which comes after this one's completion or cancelation.
        unsafe { self.net.connect(&mut self.ring, index, address, length)? };
        Ok(Some(index))
    }

    /// An attempt to connect ended.
    pub(super) fn on_connect(&mut self, now: Time, result: i32, index: u32) -> io::Result<()> {
        self.net.on_connect(index);
        self.net.release_if_done(index);
        let Role::Dialing { link } = self.net.role(index) else { return Ok(()) };
        if result < 0 {
            self.miss(link);
            return self.lose(now, index);
        }
        self.net.set_role(now, index, Role::Dialed { link });
        let engine = self.links.get(link).engine;
        self.say(now, index, |identity, out| identity.write_hello(engine, out));
        Ok(())
    }

    /// The peer was not met where it was looked for.
    pub(super) fn miss(&self, link: usize) {
        if let Some((peer, tried)) = self.links.tried(link) {
            self.common.addresses.mark_stale(peer, tried);
        }
    }

    /// Another node said who it is.
    pub(super) fn on_hello(
        &mut self,
        now: Time,
        index: u32,
        hello: &PeerHello,
        used: usize,
    ) -> io::Result<()> {
        let role = self.net.role(index);
        let verdict = self.identity.judge(hello);
        let (link, dialed) = match (role, &verdict) {
            (Role::Dialed { link }, _) => (Some(link), true),
            (_, Verdict::Welcome(_)) => {
                let thread = thread_of(hello.engine, self.common.plan.threads);
                if thread != self.thread {
                    self.give_away(now, index, thread);
                    return Ok(());
                }
                (self.links.find(hello.engine, NodeId(hello.node)), false)
            }
            // Any link to it remembers what was told.
            _ => (self.links.find(self.seats[0].index, NodeId(hello.node)), false),
        };
        match (verdict, link) {
            (Verdict::Welcome(node), Some(link)) => {
                let expected = self.links.get(link);
                if expected.peer != node || expected.engine != hello.engine {
                    self.miss(link);
                    self.note_refusal(link, "another node or engine answered at its address");
                    return self.lose(now, index);
                }
                if !dialed {
                    self.say(now, index, |identity, out| identity.write_hello(hello.engine, out));
                }
                self.link_up(now, index, link)?;
                self.resume(now, index, used)
            }
            (Verdict::Welcome(node), None) => {
                let text = format!("node {node} is not among this node's peers");
                self.net.refuse(now, index, Code::WrongCluster, &text);
                Ok(())
            }
            (Verdict::Unborn(node), link) => {
                if link.is_none_or(|link| self.links.is_news(link, "unborn")) {
                    tracing::info!(%node, "telling a node that it belongs to the cluster");
                }
                if !dialed {
                    self.say(now, index, |identity, out| identity.write_hello(hello.engine, out));
                }
                self.say(now, index, |identity, out| identity.write_birth(out));
                self.leave(now, index);
                self.net.part(now, index);
                Ok(())
            }
            (Verdict::Refused(code, text), link) => {
                if let Some(link) = link {
                    self.note_refusal(link, &text);
                }
                if let (true, Some(link)) = (dialed, link) {
                    self.miss(link);
                }
                self.leave(now, index);
                self.net.refuse(now, index, code, &text);
                Ok(())
            }
        }
    }

    /// A connection becomes the link, in place of an older one.
    fn link_up(&mut self, now: Time, index: u32, link: usize) -> io::Result<()> {
        let (seat, peer, engine) = {
            let link = self.links.get(link);
            (link.seat, link.peer, link.engine)
        };
        let conn = self.net.id(index);
        if let Some(old) = self.links.on_up(link, conn) {
            self.seats[seat].on(now, Input::PeerDown { peer });
            if self.net.is(old) {
                self.net.close(now, &mut self.ring, old.index)?;
            }
        }
        self.net.set_role(now, index, Role::Peer { link, seat, peer });
        tracing::info!(node = %peer, engine, "link up");
        self.seats[seat].on(now, Input::PeerUp { peer });
        Ok(())
    }

    /// Who the cluster's nodes are, as the engine at a seat of this thread (`from`) or an engine of another thread
    /// knows it. If that is news, everybody here acts on it.
    pub(super) fn learn(
        &mut self,
        now: Time,
        from: Option<usize>,
        nodes: &Arc<[u8]>,
    ) -> io::Result<()> {
        let Ok(newer) = Meta::restore(nodes) else { return Ok(()) };
        let belonged = self.identity.belongs();
        if !self.identity.follow(newer) {
            return Ok(());
        }
        for (at, seat) in self.seats.iter_mut().enumerate() {
            if Some(at) != from {
                seat.on(now, Input::Nodes { nodes });
            }
        }
        self.again = true;
        if from.is_some() {
            self.control.send(ToControl::Nodes { nodes: Arc::clone(nodes) });
            let others = self.untold.iter_mut().enumerate();
            for (_, untold) in others.filter(|(thread, _)| *thread != self.thread) {
                *untold = Some(Arc::clone(nodes));
            }
        }
        if belonged && !self.identity.belongs() && self.thread == 0 {
            tracing::warn!(
                "this node does not belong to the cluster any more: it was removed, or another data directory has taken its place. Stop it"
            );
        }
        self.common.addresses.follow(self.identity.addresses());
        for gone in self.links.follow(self.identity.peers()) {
            if gone.was_up {
                tracing::info!(node = %gone.peer, "link ended: this node or its data directory is none of the cluster's any more");
                self.seats[gone.seat].on(now, Input::PeerDown { peer: gone.peer });
            }
            if !self.net.is(gone.conn) {
                continue;
            }
            // What was queued, the news among it, still goes out.
            match self.net.role(gone.conn.index) {
                Role::Dialing { .. } => self.net.close(now, &mut self.ring, gone.conn.index)?,
                _ => self.net.part(now, gone.conn.index),
            }
        }
        Ok(())
    }

    /// Tells the other threads who the nodes are. Unlike a hint this is never lost: a mailbox that is full is
    /// tried again.
    pub(super) fn tell_nodes(&mut self) {
        for (post, untold) in self.common.posts.iter().zip(&mut self.untold) {
            if let Some(nodes) = untold.take()
                && let Err(ToCore::News(News::Nodes(nodes))) =
                    post.send(ToCore::News(News::Nodes(nodes)))
            {
                *untold = Some(nodes);
            }
        }
    }

    pub(super) fn note_refusal(&mut self, link: usize, text: &str) {
        if self.links.is_news(link, text) {
            let peer = self.links.get(link).peer;
            tracing::warn!(%peer, "no link: {text}");
        }
    }

    /// Queues what `write` writes.
    fn say(&mut self, now: Time, index: u32, write: impl FnOnce(&Identity, &mut Vec<u8>)) {
        let mut frames = Vec::new();
        write(&self.identity, &mut frames);
        let queued = self.net.queue(now, index, &mut frames, PEER_OUTBOX_BYTES_MAX);
        assert!(queued.is_ok(), "nothing waits on a connection that is being greeted");
    }
}
