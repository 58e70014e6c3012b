//! A way through the model, told line by line.

use super::Scope;
use super::check::Past;
use super::explore::{Action, Report};
use super::node::Input;
use super::space::{Space, View};
use std::fmt::Write as _;

/// What was covered, and what was found.
pub fn tell(scope: &Scope, report: &mut Report) -> String {
    let (nodes, letters, runs) = report.space.counts();
    let mut text = format!("scope: {scope}\n");
    let end = match (report.complete, report.cut) {
        (true, false) => "all that there are",
        (true, true) => "all within as many steps as the depth",
        (false, _) => "not all of them",
    };
    let (states, steps, depth) = (report.states, report.steps, report.depth);
    writeln!(text, "{states} states ({end}), {steps} steps, depth {depth}; a node has {nodes}")
        .expect("a string takes it");
    writeln!(text, "there are {letters} messages; the replica ran {runs} times\n{:?}", report.seen)
        .expect("a string takes it");
    if let Some(violation) = &report.violation {
        writeln!(text, "FOUND after {} steps: {}", violation.play.len(), violation.what)
            .expect("a string takes it");
        text.push_str(&lines(&mut report.space, &violation.play));
    }
    text
}

fn lines(space: &mut Space, play: &[Action]) -> String {
    let mut text = String::new();
    let mut nodes = space.birth();
    let mut past = Past::default();
    for (at, action) in play.iter().enumerate() {
        let seat = usize::from(action.seat);
        let what = describe(space, action.input);
        writeln!(text, "{:3}. node {} {what}", at + 1, seat + 1).expect("a string takes it");
        let before = nodes[seat];
        let Ok(outcome) = space.step(before, action.input) else { break };
        nodes[seat] = outcome.node;
        for letter in &outcome.sent {
            let letter = space.letter(*letter);
            writeln!(text, "       sends {}: {}", letter.to, letter.packet.describe())
                .expect("a string takes it");
        }
        // The play ends where this is broken: it was said already.
        let _ = past.on_step(seat, space.view(before), space.view(outcome.node));
        if outcome.node != before {
            writeln!(text, "       is {}", state(space.view(outcome.node)))
                .expect("a string takes it");
        }
    }
    writeln!(text, "committed: {}", log(past.ledger())).expect("a string takes it");
    for (seat, node) in nodes.iter().enumerate() {
        writeln!(text, "node {}: {}", seat + 1, state(space.view(*node)))
            .expect("a string takes it");
    }
    text
}

fn describe(space: &Space, input: Input) -> String {
    match input {
        Input::Deliver(letter) => {
            let letter = space.letter(letter);
            format!("hears {}: {}", letter.from, letter.packet.describe())
        }
        Input::Sync => "syncs its oldest unit".into(),
        Input::Campaign => "loses patience".into(),
        Input::Beat => "beats".into(),
        Input::Propose(payload) => format!("takes command {payload}"),
        Input::Crash => "loses power, and starts again".into(),
    }
}

fn state(view: &View) -> String {
    let (role, term, commit) = (view.role.as_str(), view.term, view.commit);
    let (here, durable) = (log(&view.log), log(&view.durable));
    format!("{role} term {term} log {here} durable {durable} commit {commit}")
}

/// Each entry's term, and its command.
fn log(entries: &[(u8, u8)]) -> String {
    let words: Vec<String> = entries
        .iter()
        .map(|(term, payload)| match payload {
            0 => format!("{term}"),
            _ => format!("{term}:{payload}"),
        })
        .collect();
    format!("[{}]", words.join(" "))
}
