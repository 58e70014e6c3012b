//! What comes back, and what follows from it.

use super::{Sent, State, What};
use crate::call::{Answer, CallId, LinkId, Op, Place, Reply, SessionId};
use crate::clock::Moment;
use crate::core::session::Opening;
use crate::error::Error;
use crate::limits::REDIRECTS_AT_ONCE;
use std::time::Duration;
use wire::message::{Alive, Done, Error as Refusal, TopologyReply};
use wire::{Code, Header};

impl State {
    /// A frame came. An error is why the connection can't be used any more.
    pub fn on_frame(
        &mut self,
        now: Moment,
        link_id: LinkId,
        header: Header,
        body: &[u8],
    ) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&link_id) else { return Ok(()) };
        link.heard = now;
        let refusal = (header.kind == Refusal::KIND).then(|| Refusal::decode(body));
        let refusal = refusal.transpose().map_err(|e| e.to_string())?;
        let Some(sent) = link.answered(header.request) else {
            // Unasked: about the connection itself, or of a kind that a later version pushes.
            return match refusal.filter(|_| header.request == 0) {
                Some(refusal) => Err(text_of(&refusal)),
                None => Ok(()),
            };
        };
        let Sent { what, at, .. } = sent;
        match (what, refusal) {
            (What::Call(id), refusal) => {
                let mine = self.calls.get(&id).is_some_and(
                    |c| matches!(c.place, Place::Flying(l, r) if (l, r) == (link_id, header.request)),
                );
                match refusal {
                    _ if !mine => {}
                    Some(refusal) => self.on_refusal(now, link_id, id, &refusal),
                    None => self.on_answer(now, id, &header, body)?,
                }
            }
            (What::Open { shard, session }, Some(refusal)) => {
                self.on_open_refused(now, link_id, shard, session, &refusal);
            }
            (What::Open { shard, session }, None) => {
                Done::decode(body).map_err(|e| e.to_string())?;
                self.on_opened(now, link_id, shard, session);
            }
            (What::Beat { .. }, Some(_)) => {}
            (What::Beat { session, shards }, None) => {
                let alive = Alive::decode(body).map_err(|e| e.to_string())?;
                let (alive, _) = alive.shards.as_chunks::<4>();
                let alive: Vec<u32> = alive.iter().map(|c| u32::from_le_bytes(*c)).collect();
                self.on_alive(now, at, session, &shards, &alive);
            }
            (What::Map, Some(refusal)) => {
                self.on_fetch_refused(now, link_id, text_of(&refusal));
            }
            (What::Map, None) => {
                let reply = TopologyReply::decode(body).map_err(|e| e.to_string())?;
                self.on_map(now, link_id, &reply);
            }
        }
        self.pump(now, link_id);
        Ok(())
    }

    /// A call was answered.
    fn on_answer(
        &mut self,
        now: Moment,
        id: CallId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), String> {
        let call = &self.calls[&id];
        let Some(reply) = call.op.answer(header.kind, body) else {
            return Err(format!("kind {:#x} is no answer to: {}", header.kind.0, call.op));
        };
        let tenure = match call.stamp {
            Some(_) => {
                self.session.seats.get(&call.shard).map(|s| std::sync::Arc::clone(&s.tenure))
            }
            None => None,
        };
        // When it was granted the answer does not say, and when it is read says nothing: the client may have
        // stood still since it came. Only what the client did itself bounds it.
        let granted_at = call.first_sent.unwrap_or(call.begun);
        let undo = match (&call.op, &reply) {
            (Op::Acquire { name, .. }, Reply::Token(fence)) => {
                Some(Op::Release { name: name.clone(), fence: *fence })
            }
            (Op::Pop { name, .. }, Reply::Delivery { id, delivery, .. }) => {
                Some(Op::Nack { name: name.clone(), id: *id, delivery: *delivery, delay_ms: 0 })
            }
            _ => None,
        };
        self.finish(now, id, Ok(Answer { reply, tenure, granted_at, undo }));
        Ok(())
    }

    /// A call was refused: for good, or to be tried again.
    fn on_refusal(&mut self, now: Moment, link: LinkId, id: CallId, refusal: &Refusal<'_>) {
        let node = self.links[&link].key.address.clone();
        let call = self.calls.get_mut(&id).expect("the caller found it");
        let (shard, attempts) = (call.shard, call.attempts);
        let why = format!("{node}: {}", text_of(refusal));
        let asked_pause = Duration::from_millis(u64::from(refusal.retry_ms));
        let Some(code) = Code::from_number(refusal.code) else {
            // A later version's reason: not one to try again by itself.
            let code = Code::UnknownKind;
            let (subject, text) = (call.op.to_string(), why);
            return self.finish(now, id, Err(Error::Refused { code, subject, node, text }));
        };
        match code {
            Code::NotLeader => {
                self.on_leader_hint(now, shard, refusal.node);
                let at_once = refusal.node != 0 && attempts <= REDIRECTS_AT_ONCE;
                let pause = if at_once { Duration::ZERO } else { self.pause(id) };
                self.retry(now, id, pause, why);
            }
            Code::WrongShard | Code::Unavailable | Code::NotReady | Code::Stopping => {
                // A leader that is deposed says so of calls that it had already begun.
                call.ambiguous |= code == Code::Unavailable;
                let pause = self.pause(id).max(asked_pause);
                self.retry(now, id, pause, why);
                self.want_map(now);
            }
            Code::Busy => {
                let pause = self.pause(id).max(asked_pause);
                self.retry(now, id, pause, why);
            }
            Code::SessionUnknown if call.stamp.is_some() => self.on_session_unknown(now, id, why),
            // Whatever it says of this try, what is owed is not given up.
            Code::DeadlineExceeded | Code::OutcomeUnknown if call.op.is_owed() => {
                let pause = self.pause(id);
                self.retry(now, id, pause, why);
            }
            Code::DeadlineExceeded if !call.ambiguous => {
                let (subject, waited) = (call.op.to_string(), now.since(call.begun));
                self.finish(now, id, Err(Error::Deadline { subject, waited, last: why }));
            }
            Code::DeadlineExceeded => {
                // This try was not begun; an earlier one may have been. The call's own deadline, which is
                // as close, decides; one that has none left goes on.
                let pause = self.pause(id);
                self.retry(now, id, pause, why);
            }
            Code::MessageUnknown if matches!(call.op, Op::Pop { .. }) => {
                self.pop_anew(now, id, why);
            }
            Code::SequenceStale if call.aside => self.retry(now, id, Duration::ZERO, why),
            Code::OutcomeUnknown | Code::SequenceStale => {
                let subject = call.op.to_string();
                self.finish(now, id, Err(Error::OutcomeUnknown { subject, why }));
            }
            _ => {
                let (subject, text) = (call.op.to_string(), text_of(refusal));
                self.finish(now, id, Err(Error::Refused { code, subject, node, text }));
            }
        }
    }

    /// What a pop once took was shown to others before its answer came through: it took nothing.
    fn pop_anew(&mut self, now: Moment, id: CallId, why: String) {
        let call = self.calls.get_mut(&id).expect("the caller found it");
        let (shard, stamp) = (call.shard, call.stamp.filter(|_| !call.aside));
        call.renew_wait(now);
        let pause = self.pause(id);
        self.retry(now, id, pause, why);
        if let Some(stamp) = stamp {
            self.leave_seat(now, shard, stamp);
        }
    }

    /// A shard does not know the session of a call.
    fn on_session_unknown(&mut self, now: Moment, id: CallId, why: String) {
        let call = &self.calls[&id];
        if !self.is_open_in(call.shard) {
            // The opening ahead of it did not get through. It goes again with the next try.
            if let Some(seat) = self.session.seats.get_mut(&call.shard)
                && let Opening::Sent { since, .. } = seat.opening
            {
                seat.opening = Opening::Due { since: Some(since) };
            }
            let complaint = self.session.seats.get(&call.shard).and_then(|s| s.complaint.clone());
            let why = complaint.unwrap_or(why);
            let pause = self.pause(id);
            return self.retry(now, id, pause, why);
        }
        let subject = call.op.to_string();
        let error = if call.ambiguous {
            Error::OutcomeUnknown { subject, why: why.clone() }
        } else {
            Error::SessionLost { subject, why: why.clone() }
        };
        self.finish(now, id, Err(error));
        self.end_session(now, &why);
    }

    /// A shard did not open the session.
    fn on_open_refused(
        &mut self,
        now: Moment,
        link: LinkId,
        shard: u32,
        session: SessionId,
        refusal: &Refusal<'_>,
    ) {
        self.on_unopened(link, shard, session);
        let current = self.session.life.id == session;
        if let Some(seat) = self.session.seats.get_mut(&shard).filter(|_| current) {
            seat.complaint = Some(format!("the session was not opened: {}", text_of(refusal)));
        }
        match Code::from_number(refusal.code) {
            Some(Code::NotLeader) => self.on_leader_hint(now, shard, refusal.node),
            Some(Code::SessionUnknown) if current => {
                self.end_session(now, &text_of(refusal));
            }
            _ => {}
        }
    }
}

/// What a node said, or at least what its code means.
pub(crate) fn text_of(refusal: &Refusal<'_>) -> String {
    let text = String::from_utf8_lossy(refusal.text);
    match Code::from_number(refusal.code) {
        _ if !text.is_empty() => text.into_owned(),
        Some(code) => String::from(code.advice()),
        None => format!("error {}", refusal.code),
    }
}
