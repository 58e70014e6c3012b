//! Asking every engine for its state, and not asking too often.

use super::super::http::GATHERED_FOR;
use super::Cores;
use crate::status::EngineStatus;
use glommio::channels::local_channel::{self, LocalSender};
use glommio::sync::Semaphore;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the engines may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The questions that are open, and the last answers.
pub struct Questions {
    next_ticket: Cell<u64>,
    open: RefCell<BTreeMap<u64, LocalSender<EngineStatus>>>,
    last: RefCell<Option<(Instant, Vec<EngineStatus>)>>,
    /// One question at a time; whoever waited takes its answers.
    turn: Semaphore,
}

impl Default for Questions {
    fn default() -> Self {
        Questions {
            next_ticket: Cell::new(1),
            open: RefCell::default(),
            last: RefCell::default(),
            turn: Semaphore::new(1),
        }
    }
}

impl Questions {
    /// The state of the engines that answer in time, in order.
    pub async fn ask(&self, cores: &Cores, engines: u32) -> Vec<EngineStatus> {
        let _turn = self.turn.acquire_permit(1).await;
        if let Some((at, answers)) = &*self.last.borrow()
            && at.elapsed() < GATHERED_FOR
        {
            return answers.clone();
        }
        let ticket = self.next_ticket.replace(self.next_ticket.get() + 1);
        let (sender, receiver) = local_channel::new_bounded(engines as usize);
        self.open.borrow_mut().insert(ticket, sender);
        cores.ask(ticket);
        let mut answers = Vec::with_capacity(engines as usize);
        let until = Instant::now() + ANSWER_WITHIN;
        while answers.len() < engines as usize {
            let left = until.saturating_duration_since(Instant::now());
            let next = async { Ok(receiver.recv().await) };
            match glommio::timer::timeout(left, next).await {
                Ok(Some(status)) => answers.push(status),
                Ok(None) | Err(_) => break,
            }
        }
        self.open.borrow_mut().remove(&ticket);
        answers.sort_by_key(|status| status.engine);
        self.last.replace(Some((Instant::now(), answers.clone())));
        answers
    }

    /// An engine's answer. One that comes too late is thrown away.
    pub fn answer(&self, ticket: u64, status: EngineStatus) {
        if let Some(open) = self.open.borrow().get(&ticket) {
            // There is room for one answer of each engine.
            let _ = open.try_send(status);
        }
    }
}
