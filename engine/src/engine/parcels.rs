//! Parcels: what the leader of one group sends to the leader of another, over the links between engines and nodes.
//!
//! 1. A group's leader hands a frame over that names the group that it is for ([`Parcels`](crate::shard::mail::Parcels)).
//! 2. Another engine's group: the engine of that number on this node gets it first ([`Input::Across`](super::Input)).
//! 3. The engine that keeps the group gives it to its own replica, if that leads, or to its twin on the node that leads,
//!    as far as it knows who does.
//! 4. A parcel that comes from another node goes no further.
//!
//! All of it is best effort: what is not delivered is dropped. So a parcel takes three steps at most, and never goes in
//! circles.

use super::Engine;
use crate::effects::Effects;
use crate::ids::GroupId;
use crate::level::Level;
use crate::limits::PROBE_BYTES_MAX;
use crate::shard::Step;
use crate::time::Time;
use wire::limits::PEER_FRAME_BYTES_MAX;
use wire::peer::{Mail, MailTaken, Probe};
use wire::topology::engine_of_group;
use wire::{Header, WireError};

impl Engine {
    /// Sends what the groups wrote in this turn on its way.
    pub(super) fn send_parcels(&mut self, now: Time, effects: &mut Effects) {
        if self.shared.parcels.is_empty() {
            return;
        }
        let frames = self.shared.parcels.take();
        let mut left = &frames[..];
        while let Ok(Some(frame)) = wire::split(left, PEER_FRAME_BYTES_MAX) {
            let engine = engine_of_group(frame.header.shard, self.config.engines);
            if engine == self.config.engine {
                self.on_across(now, &frame.header, frame.body, effects);
            } else {
                effects.across.push((engine, left[..frame.used].to_vec()));
            }
            left = &left[frame.used..];
        }
        assert!(left.is_empty(), "shards send whole frames");
    }

    /// A parcel of this node, for a group of this engine: its leader gets it, here or on another node.
    pub(super) fn on_across(
        &mut self,
        now: Time,
        header: &Header,
        body: &[u8],
        effects: &mut Effects,
    ) {
        let group = GroupId(header.shard);
        if !self.is_ours(group) {
            return;
        }
        if self.leads_group(group) {
            // One that can't be read is as good as lost.
            let _ = self.on_parcel(now, header, body, effects);
            return;
        }
        // The cluster is at a level once all its nodes know it: an older build never gets a parcel.
        let reads = self.nodes.level() >= Level::OUTBOX;
        let leader =
            self.known[group.0 as usize].leader.filter(|leader| *leader != self.config.node);
        if let Some(leader) = leader.filter(|_| reads) {
            let out = effects.peers.to(leader.0);
            wire::frame(out, header, |b| b.extend_from_slice(body));
        }
    }

    /// A parcel arrives where its group may be led.
    ///
    /// # Errors
    /// [`WireError::Malformed`] when the body is no such message: it is as good as lost.
    pub(super) fn on_parcel(
        &mut self,
        now: Time,
        header: &Header,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), WireError> {
        let group = GroupId(header.shard);
        let Some(at) = self.place_of(group).filter(|_| self.leads_group(group)) else {
            return Ok(());
        };
        let shard = self.shards.touch(at);
        let step = &mut Step { now, shared: &mut self.shared, effects };
        match header.kind {
            Mail::KIND => shard.on_mail(step, &Mail::view(body)?),
            MailTaken::KIND => shard.on_mail_taken(step, &MailTaken::view(body)?),
            Probe::KIND => {
                let probe = Probe::view(body)?;
                if probe.bytes.len() <= PROBE_BYTES_MAX {
                    shard.on_probe(&probe);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
