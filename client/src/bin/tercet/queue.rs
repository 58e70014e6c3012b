//! `tercet queue`.

use crate::Done;
use crate::args::{Common, Queue};
use crate::output::{Failure, Output, add_bytes, argument, exit, name};
use crate::signals;
use client::Client;
use serde_json::{Map, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

/// How much longer than the visibility a session lives that is left behind: the visibility ends the
/// delivery, never the session's end.
const SLACK: Duration = Duration::from_secs(5);
/// The longest visibility of a message that nobody here acknowledges: the session that keeps it
/// hidden lives 10 minutes at most.
const LEFT_MAX: Duration = Duration::from_secs(595);

pub fn queue(common: &Common, command: Queue, output: &Output) -> Done {
    match command {
        Queue::Push { name: queue, payload, priority } => {
            let payload = argument(&payload)?;
            let client = common.connect()?;
            let id = client.queue(queue.as_bytes()).priority(priority).push(payload).wait()?;
            client.close();
            let document =
                json!({ "queue": name(queue.as_bytes()), "id": id, "priority": priority });
            output.result(&document, &id.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Queue::Pop { name, wait, visibility, ack } => {
            let after = if ack { After::Ack } else { After::Leave };
            pop(common, &name, wait, visibility, after, output)
        }
        Queue::Ack { name: queue, id, delivery } => {
            let client = common.connect()?;
            client.queue(queue.as_bytes()).ack(id, delivery).wait()?;
            client.close();
            let document =
                json!({ "queue": name(queue.as_bytes()), "id": id, "acknowledged": true });
            output.result(&document, &format!("{id} is acknowledged"))?;
            Ok(ExitCode::SUCCESS)
        }
        Queue::Nack { name: queue, id, delivery, delay } => {
            let client = common.connect()?;
            client.queue(queue.as_bytes()).nack(id, delivery, delay).wait()?;
            client.close();
            let document = json!({ "queue": name(queue.as_bytes()), "id": id, "given_back": true });
            output.result(&document, &format!("{id} is given back"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What becomes of a message once it is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Ack,
    /// It stays hidden until its visibility runs out, so the session has to outlive it.
    Leave,
}

fn pop(
    common: &Common,
    queue: &OsStr,
    wait: Duration,
    visibility: Duration,
    after: After,
    output: &Output,
) -> Done {
    let ttl = match after {
        After::Ack => Duration::from_secs(10),
        After::Leave if visibility > LEFT_MAX => {
            return Err(Failure::Usage(format!(
                "without --ack a message can stay hidden for {LEFT_MAX:?} at most, not {visibility:?}"
            )));
        }
        After::Leave => (visibility + SLACK).max(Duration::from_secs(10)),
    };
    let client = common.config(ttl).connect()?;
    signals::close_client(&client)?;
    let done = hand_over(&client, queue, (visibility, wait), after, output);
    signals::let_end();
    match (&done, after) {
        // The end of the session gives back what did not arrive.
        (Err(_), _) | (Ok(()), After::Ack) => client.close(),
        (Ok(()), After::Leave) => client.detach(),
    }
    done.map(|()| ExitCode::SUCCESS)
}

/// Pops a message and prints it, and acknowledges it once it was printed.
fn hand_over(
    client: &Client,
    queue: &OsStr,
    (visibility, wait): (Duration, Duration),
    after: After,
    output: &Output,
) -> Result<(), Failure> {
    let popped = client.queue(queue.as_bytes()).pop(visibility, wait).wait()?;
    let Some(message) = popped else {
        let what = format!("queue \"{}\" has no message that is ready", queue.to_string_lossy());
        return Err(Failure::Other(exit::NOT_THERE, what));
    };
    let mut document = Map::new();
    document.insert(String::from("queue"), name(queue.as_bytes()));
    document.insert(String::from("id"), json!(message.id));
    document.insert(String::from("delivery"), json!(message.delivery));
    document.insert(String::from("priority"), json!(message.priority));
    add_bytes(&mut document, "payload", &message.payload);
    let note =
        format!("id {} delivery {} priority {}", message.id, message.delivery, message.priority);
    // Printed before it is acknowledged: at least once, never lost in between.
    output.bytes(&document.into(), &message.payload, &note)?;
    if after == After::Ack {
        output.settle()?;
        message.ack().wait()?;
    }
    Ok(())
}
