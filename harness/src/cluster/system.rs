//! Ports, signals and file systems.

use super::Home;
use rustix::process::Signal;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Child;

/// With fixed ports: how far the HTTP ports are above the clients'.
const HTTP_ABOVE: u32 = 80;
/// Where clients connect to a node with an IP address of its own.
pub const CLIENTS_PORT: u16 = 7400;

/// Sends a signal to a process; one that is gone needs none.
pub(super) fn signal(child: &Child, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process id out of range"))?;
    match rustix::process::kill_process(pid, signal) {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Addresses for the nodes' clients, then for their HTTP, where each node has an IP address of its own.
pub(super) fn addresses_at(homes: &[Home]) -> Vec<SocketAddr> {
    let at = |port: u16| homes.iter().map(move |home| SocketAddr::new(home.ip, port));
    at(CLIENTS_PORT).chain(at(CLIENTS_PORT + HTTP_ABOVE as u16)).collect()
}

/// Addresses for the nodes' clients, then for their HTTP.
pub(super) fn addresses(nodes: u32, first_port: Option<u16>) -> io::Result<Vec<SocketAddr>> {
    let port = |at: u32| match first_port {
        None => Ok(0),
        Some(first) => {
            let above = if at < nodes { at } else { HTTP_ABOVE + at - nodes };
            let port = u32::from(first) + above;
            u16::try_from(port).map_err(|_| io::Error::other("there is no such port"))
        }
    };
    // All are bound at once, so that none is found twice.
    let bind = |at| TcpListener::bind(("127.0.0.1", port(at)?));
    let listeners: Vec<TcpListener> = (0..2 * nodes).map(bind).collect::<io::Result<_>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}

/// The words that start a program, which follows, so that it may open `files` files and can't raise that.
pub(super) fn with_files_max(files: u64) -> Vec<String> {
    vec!["sh".into(), "-c".into(), format!("ulimit -n {files}; exec \"$0\" \"$@\"")]
}

/// The kind of file system under `dir`, by its common name.
pub fn file_system(dir: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(dir) else { return "unknown".into() };
    match stat.f_type as u64 & 0xffff_ffff {
        0xef53 => "ext4".into(),
        0x0102_1994 => "tmpfs".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x794c_7630 => "overlayfs".into(),
        0x2fc1_2fc1 => "zfs".into(),
        0x6969 => "nfs".into(),
        other => format!("{other:#x}"),
    }
}
