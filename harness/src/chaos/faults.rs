//! Does what the schedule says to the processes, the links and the disks, and undoes it.

use super::ChaosError;
use super::disks::Disks;
use super::fill::{Filled, Filler, Manner};
use super::namespaces::{Cut, Link, Network};
use super::schedule::{Event, Fault};
use super::vanish::{self, Sockets, Vanished, Watch};
use crate::cluster::{Cluster, ClusterError, START_MAX};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What a node ends with whose disk is full.
const EXIT_DISK_FULL: i32 = 28;
/// A node that met a full disk may take so long to end, even when there is room again.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// What others do is judged when no other fault was there for so long before.
const RECOVERED_AFTER: Duration = Duration::from_secs(2);
/// Between two looks at what vanished clients left behind.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a fault did, as long as it lasts.
#[derive(Debug, Default)]
struct Active {
    /// Nodes that it killed.
    killed: Vec<u32>,
    /// Nodes that it stopped.
    stopped: Vec<u32>,
    cuts: BTreeSet<Cut>,
    /// Nodes whose link it took down.
    links: Vec<u32>,
    /// Nodes whose disk it filled.
    filled: Vec<u32>,
    /// Processes that may open no more files, each with what it might before.
    bounded: Vec<(u32, Rlimit)>,
    /// Who fills a node's connections, since when, and how many links the node had then.
    filler: Option<(u32, Filler, Instant, Option<u64>)>,
    /// What a machine that vanished left behind.
    left: Option<String>,
}

/// What is known when a fault is over.
#[derive(Debug, Default)]
pub struct Over {
    /// What became of a node's connections.
    pub filled: Option<Filled>,
    /// Broken promises.
    pub broken: Vec<String>,
}

/// The hands on a cluster.
pub struct Hands<'a> {
    cluster: &'a mut Cluster,
    network: Option<&'a mut Network>,
    disks: Option<&'a Disks>,
    nodes: u32,
    shards: u32,
    active: BTreeMap<usize, (Fault, Active)>,
    /// What the clients said who took a node's connections last.
    manner: Option<Manner>,
    /// Machines that vanished.
    watches: Vec<Watch>,
    look_at: Instant,
    /// When nodes or links were last harmed.
    harmed_at: Option<Instant>,
    /// Nodes that ended by themselves because their disk was full, and wait for room.
    waiting_for_room: BTreeSet<u32>,
    /// Until when a node may end because its disk is or was full.
    full_until: BTreeMap<u32, Option<Instant>>,
    /// How often a node ended because its disk was full.
    pub ended_full: u64,
}

impl<'a> Hands<'a> {
    /// Hands that did nothing yet.
    pub fn new(
        cluster: &'a mut Cluster,
        network: Option<&'a mut Network>,
        disks: Option<&'a Disks>,
        shards: u32,
    ) -> Hands<'a> {
        let nodes = cluster.nodes().len() as u32;
        Hands {
            cluster,
            network,
            disks,
            nodes,
            shards,
            active: BTreeMap::new(),
            manner: None,
            watches: Vec::new(),
            look_at: Instant::now(),
            harmed_at: None,
            waiting_for_room: BTreeSet::new(),
            full_until: BTreeMap::new(),
            ended_full: 0,
        }
    }

    /// Begins the fault number `index`. Gives what it hit, in words; none = there was nothing to hit.
    ///
    /// # Errors
    /// [`ChaosError`].
    pub fn begin(&mut self, index: usize, event: &Event) -> Result<Option<String>, ChaosError> {
        let whom = self.whom(event);
        self.harm(event.fault);
        let mut active = Active::default();
        match event.fault {
            Fault::KillLeader | Fault::KillFollower | Fault::KillMajority | Fault::KillAll => {
                active.killed = self.living(&whom);
                for node in &active.killed {
                    self.cluster.kill(*node)?;
                }
            }
            Fault::PauseLeader | Fault::PauseLong | Fault::PauseAll => {
                active.stopped = self.living(&whom);
                for node in &active.stopped {
                    self.cluster.signal(*node, Signal::STOP)?;
                }
            }
            Fault::CutLeader
            | Fault::CutHalves
            | Fault::CutLink
            | Fault::CutOneWay
            | Fault::CutAll => {
                active.cuts = self.cuts(event.fault, &whom);
            }
            Fault::LinkDown => {
                let network = self.network.as_deref().expect("the fault was not left out");
                for node in &whom {
                    network.link(*node, Link::Down)?;
                }
                active.links.clone_from(&whom);
            }
            Fault::DiskFull => {
                let disks = self.disks.expect("the fault was not left out");
                for node in &whom {
                    self.full_until.insert(*node, None);
                    disks.fill(*node)?;
                }
                active.filled.clone_from(&whom);
            }
            Fault::TakeFiles => {
                let living = self.living(&whom);
                active.bounded = living.iter().filter_map(|node| self.take_files(*node)).collect();
            }
            Fault::FillConnections => {
                for node in self.living(&whom) {
                    let manner = self.next_manner(event.chance);
                    let links = self.count(node, "links_up");
                    let address = self.cluster.addresses()[node as usize - 1];
                    let filler = Filler::start(node, address, manner)?;
                    active.filler = Some((node, filler, Instant::now(), links));
                }
            }
            Fault::VanishClients => active.left = self.vanish()?,
        }
        let said = said(&active);
        self.active.insert(index, (event.fault, active));
        self.apply_cuts()?;
        Ok(said)
    }

    /// Undoes the fault number `index`.
    ///
    /// # Errors
    /// [`ChaosError`].
    pub fn end(&mut self, index: usize) -> Result<Over, ChaosError> {
        let mut over = Over::default();
        let Some((fault, active)) = self.active.remove(&index) else { return Ok(over) };
        self.harm(fault);
        if let Some((node, filler, since, links)) = active.filler {
            self.emptied(node, filler, since, links, &mut over);
        }
        for node in active.stopped {
            self.cluster.signal(node, Signal::CONT)?;
        }
        self.apply_cuts()?;
        for node in active.links {
            if !self.active.values().any(|(_, other)| other.links.contains(&node)) {
                let network = self.network.as_deref().expect("its link was taken down");
                network.link(node, Link::Up)?;
            }
        }
        for (pid, before) in active.bounded {
            // The process may be gone: then there is nothing to give back.
            let _ = limit_files(pid, before);
        }
        for node in active.filled {
            if !self.active.values().any(|(_, other)| other.filled.contains(&node)) {
                self.disks.expect("its disk was filled").free(node)?;
                self.full_until.insert(node, Some(Instant::now() + ENDING_MAX));
            }
        }
        for node in active.killed {
            if self.cluster.pid(node).is_none() {
                self.cluster.spawn(node, &[])?;
            }
        }
        Ok(over)
    }

    /// Whether nodes and links were harmed after `since`, or so shortly before that it may still tell.
    fn is_harmed_since(&self, since: Instant) -> bool {
        let now = self.active.values().any(|(fault, _)| !fault.is_outside());
        now || self.harmed_at.is_some_and(|at| at + RECOVERED_AFTER > since)
    }

    /// A fault begins or ends: whatever is judged only without it hears of that.
    fn harm(&mut self, fault: Fault) {
        if !fault.is_outside() {
            self.harmed_at = Some(Instant::now());
            self.watches.iter_mut().for_each(Watch::disturb);
        }
    }

    /// What clients say who take a node's connections: the first draws, then it is always the other one.
    fn next_manner(&mut self, chance: u64) -> Manner {
        let manner = match self.manner {
            None if chance >> 32 & 1 == 0 => Manner::Hello,
            Some(Manner::Silent) => Manner::Hello,
            None | Some(Manner::Hello) => Manner::Silent,
        };
        *self.manner.insert(manner)
    }

    /// Stops filling a node's connections, and looks whether it has its links still.
    fn emptied(
        &self,
        node: u32,
        filler: Filler,
        since: Instant,
        before: Option<u64>,
        over: &mut Over,
    ) {
        let after = self.count(node, "links_up");
        let mut filled = filler.stop();
        filled.judged = filled.refused > 0 && !self.is_harmed_since(since);
        if let (true, Some(before), Some(after)) = (filled.judged, before, after)
            && after < before
        {
            over.broken.push(format!(
                "node {node} had {before} links, and {after} when its connections were taken"
            ));
        }
        over.filled = Some(filled);
    }

    /// Clients come and vanish. Gives what they left behind, in words.
    fn vanish(&mut self) -> Result<Option<String>, ChaosError> {
        let pids: Vec<Option<u32>> = (1..=self.nodes).map(|node| self.cluster.pid(node)).collect();
        let addresses = self.cluster.addresses();
        let is_harmed = self.is_harmed_since(Instant::now());
        let network = self.network.as_deref_mut().expect("the fault was not left out");
        let watch = Watch::begin(network, &addresses, self.shards, &pids)?;
        let Some(mut watch) = watch else { return Ok(None) };
        if is_harmed {
            watch.disturb();
        }
        let Vanished { connections, shards, .. } = watch.vanished;
        self.watches.push(watch);
        Ok(Some(format!("{connections} connections, locks and waits in {shards} shards")))
    }

    /// Looks at what vanished clients left behind. Gives the broken promises.
    pub fn look_at_vanished(&mut self) -> Vec<String> {
        if Instant::now() < self.look_at {
            return Vec::new();
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        let (cluster, mut broken) = (&self.cluster, Vec::new());
        for watch in self.watches.iter_mut().filter(|watch| !watch.is_over()) {
            let look = |node| vanish::Look {
                node,
                sockets: cluster.pid(node).map(Sockets::of).unwrap_or_default(),
                count: watch
                    .wants_count(node)
                    .then(|| count(cluster, node, "connections"))
                    .flatten(),
            };
            let looks: Vec<vanish::Look> = (1..=self.nodes).map(look).collect();
            broken.extend(watch.look(&looks));
        }
        broken
    }

    /// Whether something of vanished clients is still awaited, and may come.
    pub fn awaits_vanished(&self) -> bool {
        self.watches.iter().any(|watch| !watch.is_over() && watch.age() < vanish::OVER_MAX)
    }

    /// What became of the machines that vanished, and what never came.
    pub fn vanished(&self) -> (Vec<Vanished>, Vec<String>) {
        let vanished = self.watches.iter().map(|watch| watch.vanished.clone()).collect();
        (vanished, self.watches.iter().flat_map(Watch::missing).collect())
    }

    fn count(&self, node: u32, what: &str) -> Option<u64> {
        count(self.cluster, node, what)
    }

    /// Looks after nodes that end by themselves: a full disk is a reason, anything else is a failure.
    /// Gives the nodes that ended.
    ///
    /// # Errors
    /// [`ChaosError::Cluster`] when a node ended without a reason.
    pub fn look(&mut self) -> Result<Vec<u32>, ChaosError> {
        let mut ended = Vec::new();
        for node in 1..=self.nodes {
            match self.cluster.check(node) {
                Ok(()) => {}
                Err(ClusterError::Ended { status, .. })
                    if status.code() == Some(EXIT_DISK_FULL) && self.may_be_full(node) =>
                {
                    self.waiting_for_room.insert(node);
                    ended.push(node);
                }
                Err(other) => return Err(other.into()),
            }
        }
        self.ended_full += ended.len() as u64;
        let has_room = |node: &u32| !self.active.values().any(|(_, it)| it.filled.contains(node));
        let ready: Vec<u32> = self.waiting_for_room.iter().copied().filter(has_room).collect();
        for node in ready {
            self.waiting_for_room.remove(&node);
            if self.cluster.pid(node).is_none() {
                self.cluster.spawn(node, &[])?;
            }
        }
        Ok(ended)
    }

    /// Undoes everything and waits until every node is ready and every shard is led.
    ///
    /// # Errors
    /// [`ChaosError`], also when they are not in time.
    pub fn heal(&mut self) -> Result<(), ChaosError> {
        for index in self.active.keys().copied().collect::<Vec<_>>() {
            self.end(index)?;
        }
        for node in 1..=self.nodes {
            self.look()?;
            self.ready(node)?;
        }
        self.cluster.wait_leaders()?;
        Ok(())
    }

    /// Waits for a node. A node that ran all the time is given as long as one that was just started: it
    /// may have been stopped or cut off until now.
    fn ready(&mut self, node: u32) -> Result<(), ChaosError> {
        let until = Instant::now() + START_MAX;
        loop {
            match self.cluster.wait_ready(node) {
                Ok(_) => return Ok(()),
                Err(ClusterError::Late { .. }) if Instant::now() < until => {}
                Err(ClusterError::Ended { status, .. })
                    if status.code() == Some(EXIT_DISK_FULL) && self.may_be_full(node) =>
                {
                    self.ended_full += 1;
                    self.cluster.spawn(node, &[])?;
                }
                Err(other) => return Err(other.into()),
            }
        }
    }

    fn may_be_full(&self, node: u32) -> bool {
        match self.full_until.get(&node) {
            None => false,
            Some(until) => until.is_none_or(|until| Instant::now() < until),
        }
    }

    /// The nodes that a fault is about. With a leader: first.
    fn whom(&self, event: &Event) -> Vec<u32> {
        let by_chance = (event.chance % u64::from(self.nodes)) as u32 + 1;
        let all = |first: u32| -> Vec<u32> {
            (0..self.nodes).map(|above| (first - 1 + above) % self.nodes + 1).collect()
        };
        if matches!(event.fault, Fault::KillAll | Fault::PauseAll) {
            return all(1);
        }
        if matches!(event.fault, Fault::CutAll | Fault::VanishClients) {
            return all(1);
        }
        if matches!(event.fault, Fault::DiskFull | Fault::TakeFiles | Fault::FillConnections) {
            return vec![by_chance];
        }
        // While nobody leads, or nobody who answers knows, it hits one by chance.
        let leader = self.cluster.leader_of(event.shard).unwrap_or(by_chance);
        let other = all(leader)[1 + (event.chance >> 32) as usize % (self.nodes as usize - 1)];
        let majority = self.nodes as usize / 2 + 1;
        match event.fault {
            Fault::KillFollower => vec![other],
            Fault::KillMajority => all(leader)[..majority].to_vec(),
            Fault::CutHalves => all(by_chance)[..majority].to_vec(),
            Fault::CutLink => vec![leader, other],
            _ => vec![leader],
        }
    }

    /// Whether nothing is done to anybody right now.
    pub fn is_calm(&self) -> bool {
        self.active.is_empty() && self.waiting_for_room.is_empty()
    }

    /// Takes a node's free descriptors. Gives its process, and what that might open before.
    fn take_files(&self, node: u32) -> Option<(u32, Rlimit)> {
        let pid = self.cluster.pid(node)?;
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        let none = Rlimit { current: Some(open), ..limit_files_of(pid)? };
        limit_files(pid, none).map(|before| (pid, before))
    }

    fn living(&self, nodes: &[u32]) -> Vec<u32> {
        nodes.iter().copied().filter(|node| self.cluster.pid(*node).is_some()).collect()
    }

    fn cuts(&self, fault: Fault, whom: &[u32]) -> BTreeSet<Cut> {
        let others: Vec<u32> = match fault {
            Fault::CutLink => vec![whom[1]],
            _ => (1..=self.nodes).filter(|node| !whom.contains(node)).collect(),
        };
        let these = if fault == Fault::CutLink { &whom[..1] } else { whom };
        let mut cuts = BTreeSet::new();
        if fault == Fault::CutAll {
            for (from, to) in whom.iter().flat_map(|from| whom.iter().map(move |to| (*from, *to))) {
                if from != to {
                    cuts.insert(Cut { from, to });
                }
            }
        }
        for one in these {
            for other in &others {
                cuts.insert(Cut { from: *one, to: *other });
                if fault != Fault::CutOneWay {
                    cuts.insert(Cut { from: *other, to: *one });
                }
            }
        }
        cuts
    }

    fn apply_cuts(&mut self) -> Result<(), ChaosError> {
        let Some(network) = &mut self.network else { return Ok(()) };
        network.cut(self.active.values().flat_map(|(_, it)| it.cuts.iter().copied()).collect())
    }
}

impl Drop for Hands<'_> {
    fn drop(&mut self) {
        // A stopped process would not hear that it is to end.
        for node in 1..=self.nodes {
            let _ = self.cluster.signal(node, Signal::CONT);
        }
    }
}

/// What a node's threads count together, as it says itself.
fn count(cluster: &Cluster, node: u32, what: &str) -> Option<u64> {
    let status = cluster.status(node)?;
    status["cores"].as_array()?.iter().map(|core| core[what].as_u64()).sum()
}

/// What a process may open.
fn limit_files_of(pid: u32) -> Option<Rlimit> {
    // The system says what was before, and changes nothing when that is set again.
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
    Some(Rlimit { current: numbers.next()?, maximum: numbers.next()? })
}

/// Says what a process may open, and gives what it might before.
fn limit_files(pid: u32, limit: Rlimit) -> Option<Rlimit> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    prlimit(Some(pid), Resource::Nofile, limit).ok()
}

/// What a fault hit, in words.
fn said(active: &Active) -> Option<String> {
    let nodes = |what: &str, nodes: &[u32]| {
        let list: Vec<String> = nodes.iter().map(u32::to_string).collect();
        (!nodes.is_empty()).then(|| format!("{what} {}", list.join(" ")))
    };
    let cuts: Vec<String> =
        active.cuts.iter().map(|cut| format!("{}->{}", cut.from, cut.to)).collect();
    let cuts = (!cuts.is_empty()).then(|| format!("lost: {}", cuts.join(" ")));
    let bounded: Vec<u32> = active.bounded.iter().map(|(pid, _)| *pid).collect();
    let filled = active.filler.as_ref().map(|(node, ..)| format!("connections of {node}"));
    let said = [
        filled,
        active.left.clone(),
        nodes("killed", &active.killed),
        nodes("stopped", &active.stopped),
        cuts,
        nodes("link down:", &active.links),
        nodes("disk full:", &active.filled),
        nodes("no descriptors: process", &bounded),
    ];
    said.into_iter().flatten().next()
}
