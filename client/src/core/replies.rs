//! What comes back, and what follows from it.

use super::ask::Ask;
use super::calls::{Aside, Call, Place};
use super::links::{Beat, Sent, What};
use super::outcome::{
    Doubt, End, Failure, Finished, Loss, Obstacle, Outcome, Said, Standing, Trouble,
};
use super::session::Opening;
use super::slab::Key;
use super::time::Moment;
use super::{Again, CallId, Caller, Core, LinkId, Order, Phase, SessionKey};
use crate::limits::REDIRECTS_AT_ONCE;
use alloc::sync::Arc;
use core::time::Duration;
use wire::message::{Alive, DetailedError as Refusal, Done, Error, TopologyReply};
use wire::{Code, Header, WireError};

impl<A: Ask> Core<A> {
    /// A frame came. Gives the call that it ended, if it ended one that somebody waits for.
    #[inline]
    pub fn on_frame<'f>(
        &mut self,
        now: Moment,
        link_id: LinkId,
        header: &Header,
        body: &'f [u8],
    ) -> Option<Finished<'f, A>> {
        let refusal = match header.kind {
            Error::KIND => Some(Error::decode(body).map(Refusal::from)),
            Refusal::KIND => Some(Refusal::decode(body)),
            _ => None,
        };
        let link = self.links.get_mut(link_id.0)?;
        link.heard = now;
        let refusal = match refusal {
            Some(Err(error)) => {
                self.break_off(now, link_id, Trouble::Malformed(error));
                return None;
            }
            Some(Ok(refusal)) => Some(refusal),
            None => None,
        };
        let request = Key::of_number(header.request);
        let finished = match (link.answered(request), refusal) {
            (Some(Sent { what: What::Call(id), .. }), refusal) => {
                let mine = Place::Flying(link_id, request);
                let is_awaited = self.calls.get(id.0).is_some_and(|call| call.place == mine);
                match refusal {
                    _ if !is_awaited => None,
                    Some(refusal) => self.on_refusal(now, link_id, id, refusal),
                    None => self.on_answer(now, link_id, id, header, body),
                }
            }
            (Some(sent), refusal) => {
                if let Err(error) = self.on_other_answer(now, link_id, sent, refusal, body) {
                    self.break_off(now, link_id, Trouble::Malformed(error));
                }
                None
            }
            (None, Some(refusal)) if header.request == 0 => {
                // About the connection itself.
                self.break_off(now, link_id, Trouble::Said(Said::of(&refusal).into_owned()));
                None
            }
            // Unasked: of a kind that a later version pushes, or too late.
            (None, _) => None,
        };
        self.pump(now, link_id);
        finished
    }

    /// What the core itself asked was answered.
    fn on_other_answer(
        &mut self,
        now: Moment,
        link_id: LinkId,
        Sent { what, at, .. }: Sent,
        refusal: Option<Refusal<'_>>,
        body: &[u8],
    ) -> Result<(), WireError> {
        match (what, refusal) {
            (What::Call(_), _) => unreachable!("an answer to a call is no other"),
            (What::Open { session, life, shard }, Some(refusal)) => {
                self.on_open_refused(now, link_id, (session, life), shard, &refusal);
            }
            (What::Open { session, life, shard }, None) => {
                Done::decode(body)?;
                self.on_opened(now, link_id, (session, life), shard);
            }
            (What::Beat(_), Some(_)) => {}
            (What::Beat(beat), None) => {
                let Beat { session, life, shards } = *beat;
                let (alive, _) = Alive::decode(body)?.shards.as_chunks::<4>();
                self.on_alive(now, at, (session, life), &shards, alive);
            }
            (What::Map, Some(refusal)) => {
                let said = Said::of(&refusal).into_owned();
                self.on_fetch_refused(now, link_id, Trouble::Said(said));
            }
            (What::Map, None) => {
                let reply = TopologyReply::decode(body)?;
                self.on_map(now, link_id, &reply);
            }
        }
        Ok(())
    }

    /// A call was answered.
    #[inline]
    fn on_answer<'f>(
        &mut self,
        now: Moment,
        link: LinkId,
        id: CallId,
        header: &Header,
        body: &'f [u8],
    ) -> Option<Finished<'f, A>> {
        let Some(reply) = self.calls[id.0].ask.answer(header.kind, body) else {
            // It may have been done all the same: the call is sent again, like any whose connection broke.
            let why = Trouble::NoSuchAnswer(header.kind);
            let address = Arc::clone(&self.links[link.0].key.address);
            self.break_off(now, link, why.clone());
            self.on_call_lost(now, link, id, &Obstacle::Lost(Arc::new((address, why))));
            return None;
        };
        let removed = self.calls.remove_with(id.0, |call| {
            let Call { ask, session, shard, caller, begun, seated, aside, first_sent, .. } = call;
            (ask, (session, shard, caller), (begun, first_sent), seated, aside)
        });
        let (ask, (session, shard, caller), (begun, first_sent), seated, aside) =
            removed.expect("it was found above");
        self.forget(ask.bytes());
        // When it was granted the answer does not say, and when it is read says nothing: the client may have
        // stood still since it came. Only what the client did itself bounds it.
        let granted_at = first_sent.unwrap_or(begun);
        let of = &self.sessions[session.0 as usize];
        let seat = of.seat(shard).filter(|_| seated.is_some());
        let standing = seat.map(|seat| Standing { session: of.id, shard, until: seat.until });
        if self.settings.again == Again::Waits {
            self.turn_granted(now, id, (&ask, session), &reply, standing);
        }
        if let Some(seated) = seated.filter(|_| aside == Aside::No) {
            self.leave_seat(now, session, shard, seated);
        }
        match caller {
            Caller::Waits => {
                let outcome = Outcome::Done { reply, standing, granted_at };
                Some(Finished { call: id, ask, outcome })
            }
            Caller::Nobody => {
                if let (Some(undo), Some(standing)) = (ask.undo(&reply), standing) {
                    self.give_back(now, session, undo, standing);
                }
                None
            }
        }
    }

    /// Gives back what an answer brought and nobody took, unless its session has ended.
    pub fn give_back(&mut self, now: Moment, session: SessionKey, ask: A, standing: Standing) {
        if self.phase == Phase::Running && self.session_id(session) == standing.session {
            let order = Order {
                ask,
                session,
                shard: Some(standing.shard),
                limit: Duration::MAX,
                bound: Some(standing.session),
                caller: Caller::Nobody,
            };
            self.submit(now, order);
        }
    }

    /// A call was refused: for good, or to be tried again.
    fn on_refusal<'f>(
        &mut self,
        now: Moment,
        link: LinkId,
        id: CallId,
        refusal: Refusal<'f>,
    ) -> Option<Finished<'f, A>> {
        let address = Arc::clone(&self.links[link.0].key.address);
        let Some(code) = Code::from_number(refusal.code) else {
            // A later version's reason: not one to try again by itself.
            return self.on_final_refusal(now, id, Code::UnknownKind, address, refusal);
        };
        let why = || Obstacle::refused(&address, &refusal);
        let asked_pause = Duration::from_millis(u64::from(refusal.retry_ms));
        let call = self.calls.get_mut(id.0).expect("the caller found it");
        let (shard, attempts) = (call.shard, call.attempts);
        match code {
            Code::NotLeader => {
                self.believe(now, shard, refusal.node);
                let at_once = refusal.node != 0 && attempts <= REDIRECTS_AT_ONCE;
                let pause = if at_once { Duration::ZERO } else { self.pause(id) };
                self.retry(now, id, pause, why());
            }
            Code::WrongShard | Code::Unavailable | Code::NotReady | Code::Stopping => {
                // A leader that is deposed says so of calls that it had already begun.
                call.ambiguous |= code == Code::Unavailable;
                let pause = self.pause(id).max(asked_pause);
                self.retry(now, id, pause, why());
                self.want_map(now);
            }
            Code::Busy => {
                let pause = self.pause(id).max(asked_pause);
                self.retry(now, id, pause, why());
            }
            Code::SessionUnknown if call.seated.is_some() => {
                self.on_session_unknown(now, id, why());
            }
            // Whatever it says of this try, what is owed is not given up.
            Code::DeadlineExceeded | Code::OutcomeUnknown if call.ask.is_owed() => {
                let pause = self.pause(id);
                self.retry(now, id, pause, why());
            }
            Code::DeadlineExceeded if !call.ambiguous => {
                let waited = now.since(call.begun);
                self.fail(now, id, Failure::Deadline { waited, last: why() });
            }
            Code::DeadlineExceeded => {
                // This try was not begun; an earlier one may have been. The call's own deadline, which is
                // as close, decides; one that has none left goes on.
                let pause = self.pause(id);
                self.retry(now, id, pause, why());
            }
            Code::MessageUnknown if call.is_pop() => self.pop_anew(now, id, why()),
            Code::SequenceStale if call.aside != Aside::No => {
                self.retry(now, id, Duration::ZERO, why());
            }
            Code::OutcomeUnknown | Code::SequenceStale => {
                self.fail(now, id, Failure::Unknown(Doubt::Told(why())));
            }
            _ => return self.on_final_refusal(now, id, code, address, refusal),
        }
        None
    }

    /// A call was refused for good.
    fn on_final_refusal<'f>(
        &mut self,
        now: Moment,
        id: CallId,
        code: Code,
        by: Arc<str>,
        refusal: Refusal<'f>,
    ) -> Option<Finished<'f, A>> {
        let call = self.remove(id).expect("the caller found it");
        self.turn_over(now, id, (&call.ask, call.session));
        if let Some(seated) = call.seated.filter(|_| call.aside == Aside::No) {
            self.leave_seat(now, call.session, call.shard, seated);
        }
        let outcome = Outcome::Refused { code, by: Some(by), said: Said::of(&refusal) };
        let waits = call.caller == Caller::Waits;
        waits.then_some(Finished { call: id, ask: call.ask, outcome })
    }

    /// What a pop once took was shown to others before its answer came through: it took nothing.
    fn pop_anew(&mut self, now: Moment, id: CallId, why: Obstacle) {
        let call = self.calls.get_mut(id.0).expect("the caller found it");
        if call.aside == Aside::Cancelled {
            return self.fail(now, id, Failure::Unknown(Doubt::Told(why)));
        }
        let (session, shard) = (call.session, call.shard);
        let seated = call.seated.filter(|_| call.aside == Aside::No);
        call.renew_wait(now);
        let pause = self.pause(id);
        self.retry(now, id, pause, why);
        if let Some(seated) = seated {
            self.leave_seat(now, session, shard, seated);
        }
    }

    /// A shard does not know the session of a call.
    fn on_session_unknown(&mut self, now: Moment, id: CallId, why: Obstacle) {
        let call = &self.calls[id.0];
        let session = call.session;
        let seat = self.sessions[session.0 as usize].seat_mut(call.shard);
        let seat = seat.expect("the call has a sequence of it");
        if !seat.opening.is_known() {
            // The opening ahead of it did not get through. It goes again with the next try.
            if let Opening::Sent { since, .. } = seat.opening {
                seat.opening = Opening::Due { since: Some(since) };
            }
            let complaint = seat.complaint.as_ref().map(|said| Obstacle::Unopened(said.clone()));
            let pause = self.pause(id);
            return self.retry(now, id, pause, complaint.unwrap_or(why));
        }
        let failure = match call.ambiguous {
            true => Failure::Unknown(Doubt::Told(why.clone())),
            false => Failure::SessionLost(Loss::Told(why.clone())),
        };
        self.fail(now, id, failure);
        self.end_session(now, session, End::Told(why));
    }

    /// A shard did not open a session.
    fn on_open_refused(
        &mut self,
        now: Moment,
        link: LinkId,
        (session, life): (SessionKey, u32),
        shard: u32,
        refusal: &Refusal<'_>,
    ) {
        self.on_unopened(link, session, life, shard);
        let of = &mut self.sessions[session.0 as usize];
        let current = of.life == life;
        if let Some(seat) = of.seat_mut(shard).filter(|_| current) {
            seat.complaint = Some(Arc::new(Said::of(refusal).into_owned()));
        }
        match Code::from_number(refusal.code) {
            Some(Code::NotLeader) => self.believe(now, shard, refusal.node),
            Some(Code::SessionUnknown) if current => {
                let address = &self.links[link.0].key.address;
                let why = Obstacle::refused(address, refusal);
                self.end_session(now, session, End::Told(why));
            }
            _ => {}
        }
    }
}
