//! A network namespace for each node, joined by a bridge in one of its own.
//!
//! ```text
//!   namespace sw:  bridge  <- veth ->  namespace n1: eth0 10.251.X.1, nft table "chaos"
//!                          <- veth ->  namespace n2: eth0 10.251.X.2
//!                          <- veth ->  namespace c0: eth0 10.251.X.100, a client's machine that will vanish
//!                          <- veth ->  this machine:      10.251.X.254, where the other clients are
//! ```
//!
//! The bridge has a namespace of its own so that no rule of this machine's firewall applies to it.

use super::ChaosError;
use super::tool::{fed, lives, tool};
use crate::cluster::Home;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

/// What the names begin with; then the process that made them.
const PREFIX: &str = "tercet-chaos-";
/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";
/// The last byte of the first client's machine's address.
const MACHINES_FROM: u8 = 100;
/// After so many machines an address is used again.
const MACHINES: u8 = 100;

/// One direction between two nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cut {
    /// Whose packets are lost.
    pub from: u32,
    /// Who does not get them.
    pub to: u32,
}

/// The namespaces and the links; dropping it removes them.
#[derive(Debug)]
pub struct Network {
    nodes: u32,
    net: u8,
    cuts: BTreeSet<Cut>,
    /// Clients' machines that were made so far.
    machines: u32,
}

/// A client's machine. Dropping it takes its link away at once: nobody there says that it ends.
#[derive(Debug)]
pub struct Machine {
    /// Its address.
    pub ip: IpAddr,
    space: String,
    port: String,
}

impl Machine {
    /// Does something on a thread that is there.
    ///
    /// # Errors
    /// [`ChaosError::Tool`] when it can't go there.
    pub fn within<T: Send>(&self, deed: impl FnOnce() -> T + Send) -> Result<T, ChaosError> {
        let path = format!("{NAMES}/{}", self.space);
        let enter = || {
            let link = fs::File::open(&path)?;
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(link.as_fd(), network).map_err(io::Error::from)
        };
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(|| enter().map(|()| deed()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        done.map_err(|why| ChaosError::Tool { what: format!("entering {path}"), why })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = tool(&["ip", "-n", &name("sw"), "link", "del", &self.port]);
        let _ = tool(&["ip", "netns", "del", &self.space]);
    }
}

impl Network {
    /// Makes the namespaces and the links.
    ///
    /// # Errors
    /// [`ChaosError::Tool`], most often because this user may not: nothing is left behind.
    pub fn make(nodes: u32) -> Result<Network, ChaosError> {
        sweep();
        let net = (std::process::id() % 250) as u8;
        let network = Network { nodes, net, cuts: BTreeSet::new(), machines: 0 };
        // From here on dropping it removes what was made so far.
        let switch = name("sw");
        tool(&["ip", "netns", "add", &switch])?;
        tool(&["ip", "-n", &switch, "link", "add", "bridge0", "type", "bridge"])?;
        tool(&["ip", "-n", &switch, "link", "set", "bridge0", "up"])?;
        let ours = format!("tct{}", std::process::id());
        tool(&[
            "ip", "link", "add", &ours, "type", "veth", "peer", "name", "host", "netns", &switch,
        ])?;
        tool(&["ip", "-n", &switch, "link", "set", "host", "master", "bridge0", "up"])?;
        let host = format!("{}/24", network.ip(254));
        tool(&["ip", "addr", "add", &host, "dev", &ours])?;
        tool(&["ip", "link", "set", &ours, "up"])?;
        for node in 1..=nodes {
            network.add(node)?;
        }
        Ok(network)
    }

    fn add(&self, node: u32) -> Result<(), ChaosError> {
        let (space, port) = (name(&format!("n{node}")), format!("n{node}"));
        connect(&space, &port, self.ip(node as u8))?;
        let chain = "add table inet chaos\n\
             add chain inet chaos arriving { type filter hook input priority 0 ; }\n";
        fed(&["ip", "netns", "exec", &space, "nft", "-f", "-"], chain)
    }

    fn ip(&self, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 251, self.net, host))
    }

    /// A machine for clients, with an address that no machine had for long.
    ///
    /// # Errors
    /// [`ChaosError::Tool`].
    pub fn machine(&mut self) -> Result<Machine, ChaosError> {
        let port = format!("c{}", self.machines);
        let ip = self.ip(MACHINES_FROM + (self.machines % u32::from(MACHINES)) as u8);
        self.machines += 1;
        // From here on dropping it removes what was made so far.
        let machine = Machine { ip, space: name(&port), port };
        connect(&machine.space, &machine.port, ip)?;
        Ok(machine)
    }

    /// Where the nodes live.
    pub fn homes(&self) -> Vec<Home> {
        let home = |node: u32| Home {
            ip: self.ip(node as u8),
            enter: ["ip", "netns", "exec", &name(&format!("n{node}"))].map(String::from).into(),
        };
        (1..=self.nodes).map(home).collect()
    }

    /// Cuts exactly these; what else was cut is healed.
    ///
    /// # Errors
    /// [`ChaosError::Tool`].
    pub fn cut(&mut self, cuts: BTreeSet<Cut>) -> Result<(), ChaosError> {
        for node in 1..=self.nodes {
            let into = |cuts: &BTreeSet<Cut>| -> Vec<u32> {
                cuts.iter().filter(|cut| cut.to == node).map(|cut| cut.from).collect()
            };
            let (now, wanted) = (into(&self.cuts), into(&cuts));
            if now == wanted {
                continue;
            }
            let mut rules = String::from("flush chain inet chaos arriving\n");
            for from in wanted {
                let ip = self.ip(from as u8);
                rules += &format!("add rule inet chaos arriving ip saddr {ip} drop\n");
            }
            let space = name(&format!("n{node}"));
            fed(&["ip", "netns", "exec", &space, "nft", "-f", "-"], &rules)?;
        }
        self.cuts = cuts;
        Ok(())
    }

    /// Takes a node's link down, or up again.
    ///
    /// # Errors
    /// [`ChaosError::Tool`].
    pub fn link(&self, node: u32, state: Link) -> Result<(), ChaosError> {
        let word = if state == Link::Up { "up" } else { "down" };
        tool(&["ip", "-n", &name("sw"), "link", "set", &format!("n{node}"), word])
    }
}

/// Whether a link carries anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// It does.
    Up,
    /// It does not.
    Down,
}

impl Drop for Network {
    fn drop(&mut self) {
        // The links end with the namespaces. A name that was not made yet can't be removed.
        for node in 1..=self.nodes {
            let _ = tool(&["ip", "netns", "del", &name(&format!("n{node}"))]);
        }
        let _ = tool(&["ip", "netns", "del", &name("sw")]);
    }
}

fn name(what: &str) -> String {
    format!("{PREFIX}{}-{what}", std::process::id())
}

/// Makes a namespace and its link to the bridge.
fn connect(space: &str, port: &str, ip: IpAddr) -> Result<(), ChaosError> {
    let switch = name("sw");
    tool(&["ip", "netns", "add", space])?;
    tool(&[
        "ip", "-n", &switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns",
        space,
    ])?;
    tool(&["ip", "-n", &switch, "link", "set", port, "master", "bridge0", "up"])?;
    tool(&["ip", "-n", space, "addr", "add", &format!("{ip}/24"), "dev", "eth0"])?;
    tool(&["ip", "-n", space, "link", "set", "lo", "up"])?;
    tool(&["ip", "-n", space, "link", "set", "eth0", "up"])
}

/// Removes the namespaces of runs whose process is gone.
fn sweep() {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !lives(pid)) {
            let _ = tool(&["ip", "netns", "del", &name]);
        }
    }
}
