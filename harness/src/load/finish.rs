//! After the load: sessions are closed, so that nothing of it stays held, and queues drained, so that
//! the check can say that nothing was lost.

use super::LoadError;
use super::SessionId;
use super::core::Core;
use super::router::{leader, topology};
use crate::cluster::ask::{Ask, AskError};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};
use wire::message::{Delivery, QueueAck, QueuePop, SessionClose, SessionOpen};
use wire::{Call, Code};

/// Calls that may be unanswered on a connection.
const CALLS_AT_ONCE: usize = 128;
/// How long the whole may take.
const FINISH_MAX: Duration = Duration::from_secs(20);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Closes all sessions and drains the queues. Gives the number of messages that were left.
pub(super) fn finish(core: &mut Core, addresses: &[SocketAddr]) -> Result<u64, LoadError> {
    let mut shards: Vec<u32> = core.conns.iter().map(|conn| conn.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    let until = Instant::now() + FINISH_MAX;
    let mut drained = 0;
    for shard in shards {
        let mut sessions: Vec<SessionId> = core
            .conns
            .iter()
            .filter(|conn| conn.shard == shard)
            .flat_map(|conn| conn.sessions.clone())
            .map(|session| core.sessions[session as usize].id)
            .collect();
        sessions.extend(core.ended.iter().filter(|it| it.0 == shard).map(|it| it.1));
        loop {
            // A drain that broke off began calls under its session: the next one closes it.
            let drainer = drainer(core);
            let tried = leader_of(addresses, shard, drainer).and_then(|mut ask| {
                close(&mut ask, shard, &sessions)?;
                match core.scenario.pushes() {
                    true => drain(&mut ask, core, shard, drainer),
                    false => Ok(0),
                }
            });
            match tried {
                Ok(count) => {
                    drained += count;
                    break;
                }
                Err(error) if Instant::now() > until => return Err(LoadError::Finish(error)),
                Err(_) => {
                    sessions.push(drainer);
                    sleep(TRY_EVERY);
                }
            }
        }
    }
    if core.scenario.pushes() {
        let verdict = core.check_queue.drained();
        core.violations.take(verdict);
    }
    Ok(drained)
}

fn drainer(core: &mut Core) -> SessionId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&core.draw().to_le_bytes());
    id[8..].copy_from_slice(&core.draw().to_le_bytes());
    id
}

fn leader_of(addresses: &[SocketAddr], shard: u32, id: SessionId) -> Result<Ask, AskError> {
    let nobody = AskError::Nonsense { address: addresses[0], what: "no node answers".into() };
    let topology = topology(addresses).ok_or(nobody)?;
    Ok(leader(&topology, shard, id)?.0)
}

fn close(ask: &mut Ask, shard: u32, sessions: &[SessionId]) -> Result<(), AskError> {
    for some in sessions.chunks(CALLS_AT_ONCE) {
        for session in some {
            let close = SessionClose { session: *session };
            ask.tell(SessionClose::KIND, shard, |out| close.encode(out))?;
        }
        for _ in some {
            match ask.hear() {
                // Closed already, by an earlier try.
                Err(AskError::Refused { code: Some(Code::SessionUnknown), .. }) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn drain(ask: &mut Ask, core: &mut Core, shard: u32, session: SessionId) -> Result<u64, AskError> {
    let open = SessionOpen { session, ttl_ms: core.session_ttl_ms };
    ask.call(SessionOpen::KIND, shard, |out| open.encode(out))?;
    let mut sequence = 0;
    let mut drained = 0;
    loop {
        sequence += 1;
        let name = core.queues[shard as usize].clone();
        let pop = QueuePop {
            call: Call { session, sequence, answered_below: sequence },
            wait_ms: 0,
            visibility_ms: super::slot::VISIBILITY_MS,
            name: &name,
        };
        let (_, body) = match ask.call(QueuePop::KIND, shard, |out| pop.encode(out)) {
            Ok(delivery) => delivery,
            Err(AskError::Refused { code: Some(Code::QueueEmpty), .. }) => break,
            Err(error) => return Err(error),
        };
        let Ok(delivery) = Delivery::decode(&body) else { break };
        let marks = core.lines.marks(delivery.payload).filter(|(_, run)| *run == core.lines.run);
        let number = marks.map_or(u64::MAX, |(number, _)| number);
        let verdict = core.check_queue.delivered(number, delivery.delivery);
        core.violations.take(verdict);
        sequence += 1;
        let (id, delivery) = (delivery.id, delivery.delivery);
        let call = Call { session, sequence, answered_below: sequence };
        let ack = QueueAck { call, id, delivery, name: &name };
        ask.call(QueueAck::KIND, shard, |out| ack.encode(out))?;
        drained += 1;
    }
    close(ask, shard, &[session])?;
    Ok(drained)
}
