//! The core and what this client keeps beside it: where outcomes are left, what guards know, connections' outboxes.
//!
//! Here the core's data becomes what users see: answers with bytes of their own, and errors in words.

use crate::call::{Answer, Errand, Given};
use crate::clock::Moment;
use crate::connection::{Outbox, Target};
use crate::core::{
    CallId, Caller, Core, Event, Finished, LinkId, Order, Outcome as Came, SessionId, SessionKey,
    Settings, Standing, Trouble,
};
use crate::error::Error;
use crate::inbox::Body;
use crate::pending::{Outcome, Slot};
use crate::tenure::{Life, Tenure};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use wire::Header;

/// A client has one session.
const SESSION: SessionKey = SessionKey(0);

/// Whether the client has closed its session.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Left {
    #[default]
    No,
    Yes,
}

/// What is to be done once the core is let go.
#[derive(Default)]
pub(crate) struct Todo {
    /// Outcomes to hand over.
    pub done: Vec<(Arc<Slot>, Outcome)>,
    /// Connections to make.
    pub connect: Vec<(LinkId, Target, Arc<Outbox>)>,
    pub left: Left,
}

impl Todo {
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.connect.is_empty() && self.left == Left::No
    }
}

/// All that the client knows.
pub(crate) struct Inner {
    pub core: Core<Errand>,
    /// What the driver waits for; it is woken for anything earlier.
    pub driver_sleeps_until: Moment,
    /// By the place of each connection.
    outboxes: Vec<Option<(LinkId, Arc<Outbox>)>>,
    life: Arc<Life>,
    /// The session's standing in each shard.
    tenures: BTreeMap<u32, Arc<Tenure>>,
    /// Who waits for the first topology.
    ready: Option<Arc<Slot>>,
    todo: Todo,
}

impl Inner {
    /// A client that knows nothing yet. `ready` is told when it knows where everything is.
    pub fn new(now: Moment, settings: Settings, ready: Arc<Slot>) -> Inner {
        let core = Core::new(now, settings);
        Inner {
            driver_sleeps_until: Moment(0),
            outboxes: Vec::new(),
            life: Life::new(core.session_id(SESSION)),
            tenures: BTreeMap::new(),
            ready: Some(ready),
            todo: Todo::default(),
            core,
        }
    }

    /// The session's id.
    pub fn session(&self) -> SessionId {
        self.core.session_id(SESSION)
    }

    /// Makes a call, which is finished through its slot.
    pub fn submit(
        &mut self,
        now: Moment,
        errand: Errand,
        limit: Duration,
        bound: Option<SessionId>,
    ) -> CallId {
        let caller = match errand.slot {
            Some(_) => Caller::Waits,
            None => Caller::Nobody,
        };
        let order = Order { ask: errand, session: SESSION, shard: None, limit, bound, caller };
        self.core.submit(now, order)
    }

    /// Gives back what an answer brought and nobody took.
    pub fn undo(&mut self, now: Moment, answer: Answer) {
        if let Some((op, standing)) = answer.undo {
            self.core.give_back(now, SESSION, op.into(), standing);
        }
    }

    /// A frame came.
    pub fn on_frame(&mut self, now: Moment, link: LinkId, header: &Header, body: &Body<'_>) {
        let finished = self.core.on_frame(now, link, header, body.bytes());
        // Whatever else came of it comes first: an answer is by the session that is there after it.
        self.drain();
        if let Some(finished) = finished {
            self.settle(finished, |part| body.keep(part));
        }
    }

    /// A connection is gone, or was never made.
    pub fn on_closed(&mut self, now: Moment, link: LinkId, why: Trouble) {
        self.close(link);
        self.core.on_closed(now, link, why);
    }

    /// Ends every call and connection.
    pub fn vanish(&mut self, now: Moment) {
        self.core.vanish(now);
        if let Some(ready) = self.ready.take() {
            let closed = Error::Closed { subject: String::from("connect") };
            self.todo.done.push((ready, Err(closed)));
        }
        self.todo.left = Left::Yes;
    }

    /// Takes what is to be done, and hands bytes to the connections' writers.
    pub fn take_todo(&mut self) -> Todo {
        self.drain();
        while let Some(link) = self.core.next_to_send() {
            let bytes = self.core.bytes_of(link).expect("it has bytes to be sent");
            let outbox = self.outboxes[link.0.index()].as_ref().filter(|(id, _)| *id == link);
            let (_, outbox) = outbox.expect("an outbox is made with each connection");
            outbox.push(bytes);
        }
        std::mem::take(&mut self.todo)
    }

    fn drain(&mut self) {
        while let Some(event) = self.core.next_event() {
            self.on_event(event);
        }
        while let Some(finished) = self.core.next_finished() {
            self.settle(finished, Bytes::copy_from_slice);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connect { link, address, engine } => {
                let (place, outbox) = (link.0.index(), Arc::<Outbox>::default());
                if self.outboxes.len() <= place {
                    self.outboxes.resize_with(place + 1, || None);
                }
                self.outboxes[place] = Some((link, Arc::clone(&outbox)));
                self.todo.connect.push((link, Target { address, engine }, outbox));
            }
            Event::Close { link } => self.close(link),
            Event::Ready => {
                let granted_at = Moment(0);
                let given = Given::Ready;
                let answer = Answer { given, tenure: None, granted_at, undo: None };
                self.todo.done.extend(self.ready.take().map(|slot| (slot, Ok(answer))));
            }
            Event::Unreached { tried } => {
                let tried = tried.iter().map(|(address, why)| format!("{address}: {why}"));
                let tried = tried.collect::<Vec<_>>().join("; ");
                let error = Error::Connect { tried };
                self.todo.done.extend(self.ready.take().map(|slot| (slot, Err(error))));
            }
            Event::Renewed { standing, .. } => {
                if let Some(tenure) = self.tenures.get(&standing.shard) {
                    tenure.set_until(standing.until);
                }
            }
            Event::Ended { why, .. } => {
                // It can be set once; the first reason is the one to tell.
                let _already = self.life.ended.set(why.to_string());
                self.tenures.clear();
                if self.session() != self.life.id {
                    self.life = Life::new(self.session());
                }
            }
            Event::Left => self.todo.left = Left::Yes,
        }
    }

    /// Shuts a connection, unless that is done.
    fn close(&mut self, link: LinkId) {
        if let Some(place) = self.outboxes.get_mut(link.0.index())
            && let Some((_, outbox)) = place.take_if(|(id, _)| *id == link)
        {
            outbox.kill();
        }
    }

    /// Leaves what a call came to for whoever waits for it.
    fn settle(&mut self, finished: Finished<'_, Errand>, keep: impl Fn(&[u8]) -> Bytes) {
        let Errand { op, slot: Some(slot) } = &finished.ask else { return };
        let outcome = match finished.outcome {
            Came::Done { reply, standing, granted_at } => {
                let undo = crate::core::Ask::undo(&finished.ask, &reply);
                let undo = undo.zip(standing).map(|(errand, standing)| (errand.op, standing));
                let tenure = standing.map(|standing| self.tenure(&standing));
                Ok(Answer { given: Given::of(reply, keep), tenure, granted_at, undo })
            }
            Came::Refused { code, by, said } => Err(Error::refused(op, code, by, &said)),
            Came::Failed(failure) => Err(Error::failed(op, failure)),
        };
        self.todo.done.push((Arc::clone(slot), outcome));
    }

    /// What guards of a shard know of the session.
    fn tenure(&mut self, standing: &Standing) -> Arc<Tenure> {
        assert!(standing.session == self.life.id, "an answer is by the session that there is");
        let tenure = self.tenures.entry(standing.shard);
        let life = &self.life;
        Arc::clone(tenure.or_insert_with(|| Tenure::new(Arc::clone(life), standing.until)))
    }
}
