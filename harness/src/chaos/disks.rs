//! A small file system for each node, which a file of zeroes fills.
//!
//! Ext4 in a file on a loop device where that is allowed, else tmpfs.

use super::ChaosError;
use super::tool::{lives, tool};
use rustix::fs::FallocateFlags;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What a node's disk holds: a few journal segments of [`SEGMENT`], and snapshots.
const DISK_MIB: u64 = 256;
/// The nodes' segment size: about the least that a server takes, so that new space is wanted often.
pub const SEGMENT: &str = "20MiB";
/// Segments of a node's journal, at most.
pub const SEGMENTS_MAX: &str = "6";
/// The file that fills a disk.
const BALLAST: &str = "ballast";
/// The least that is still taken of a disk, in bytes.
const CRUMB_BYTES: u64 = 4096;

/// The kind of file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Ext4 in a file, on a loop device.
    Ext4,
    /// In memory.
    Tmpfs,
}

/// The nodes' file systems; dropping it unmounts them.
#[derive(Debug)]
pub struct Disks {
    mounted: Vec<PathBuf>,
    /// What they are.
    pub kind: Kind,
}

impl Disks {
    /// Mounts one for each node, in `dir`, where the cluster puts the nodes' directories.
    ///
    /// # Errors
    /// [`ChaosError::Tool`], most often because this user may not: nothing stays mounted.
    pub fn mount(dir: &Path, nodes: u32) -> Result<Disks, ChaosError> {
        sweep(dir);
        Disks::mount_as(Kind::Ext4, dir, nodes)
            .or_else(|_| Disks::mount_as(Kind::Tmpfs, dir, nodes))
    }

    fn mount_as(kind: Kind, dir: &Path, nodes: u32) -> Result<Disks, ChaosError> {
        let mut disks = Disks { mounted: Vec::new(), kind };
        for node in 1..=nodes {
            let at = dir.join(format!("node-{node}"));
            let io = |why| ChaosError::Tool { what: format!("making {}", at.display()), why };
            fs::create_dir_all(&at).map_err(io)?;
            let place = at.to_string_lossy();
            if kind == Kind::Tmpfs {
                let size = format!("size={DISK_MIB}m");
                tool(&["mount", "-t", "tmpfs", "-o", &size, "tercet-chaos", &place])?;
            } else {
                let image = dir.join(format!("node-{node}.ext4"));
                let file = File::create(&image).map_err(io)?;
                file.set_len(DISK_MIB << 20).map_err(io)?;
                let image = image.to_string_lossy();
                tool(&["mkfs.ext4", "-q", "-F", "-m", "0", &image])?;
                tool(&["mount", "-o", "loop", &image, &place])?;
                // Not the node's; one that finds it there would take the directory for another's.
                let _ = fs::remove_dir(at.join("lost+found"));
            }
            disks.mounted.push(at);
        }
        Ok(disks)
    }

    /// Takes all space that a node's disk has left.
    ///
    /// # Errors
    /// [`ChaosError::Tool`].
    pub fn fill(&self, node: u32) -> Result<(), ChaosError> {
        let path = self.ballast(node);
        let io = |why| ChaosError::Tool { what: format!("filling {}", path.display()), why };
        let file = File::options().create(true).append(true).open(&path).map_err(io)?;
        let mut step = DISK_MIB << 20;
        while step >= CRUMB_BYTES {
            let at = file.metadata().map_err(io)?.len();
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), at, step) {
                Ok(()) => {}
                Err(rustix::io::Errno::NOSPC) => step /= 2,
                Err(why) => return Err(io(why.into())),
            }
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// [`ChaosError::Tool`].
    pub fn free(&self, node: u32) -> Result<(), ChaosError> {
        let path = self.ballast(node);
        match fs::remove_file(&path) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                Err(ChaosError::Tool { what: format!("removing {}", path.display()), why })
            }
            _ => Ok(()),
        }
    }

    /// Copies what only the mounts hold beside them, for whoever looks into a failed run. Images stay.
    pub fn keep(&self) {
        for at in self.mounted.iter().filter(|_| self.kind == Kind::Tmpfs) {
            let kept = at.with_extension("kept");
            let _ = tool(&["cp", "-a", &at.to_string_lossy(), &kept.to_string_lossy()]);
        }
    }

    fn ballast(&self, node: u32) -> PathBuf {
        self.mounted[node as usize - 1].join(BALLAST)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for at in &self.mounted {
            unmount(at);
        }
    }
}

fn unmount(at: &Path) {
    let at = at.to_string_lossy();
    if tool(&["umount", &at]).is_err() {
        // A program still looks into it: the mount goes when that ends.
        let _ = tool(&["umount", "-l", &at]);
    }
}

/// Unmounts what runs beside this one, whose process is gone, left behind.
fn sweep(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(beside) = dir.canonicalize().ok().and_then(|dir| Some(dir.parent()?.to_owned()))
    else {
        return;
    };
    for at in mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
        let run = at.strip_prefix(&beside).ok().and_then(|rest| rest.iter().next()?.to_str());
        let ours = at.file_name().is_some_and(|name| name.to_string_lossy().starts_with("node-"));
        if ours && run.is_some_and(|pid| pid.parse::<u32>().is_ok() && !lives(pid)) {
            unmount(at);
        }
    }
}
