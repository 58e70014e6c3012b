//! What the fake's nodes know of backups: a group's snapshot is its own bytes, and the nodes forget it with `gone`.

use super::{Memory, refusal};
use std::collections::BTreeMap;
use wire::message::{BackupBegin, BackupPiece, BackupRead, BackupReady};
use wire::{Code, Kind};

/// Bytes of a piece.
const PIECE: usize = 1000;

/// Snapshots that are kept: by node and group, for which backup.
pub type Kept = BTreeMap<(u32, u32), [u8; 16]>;

/// What a group's snapshot is.
pub fn snapshot(group: u32) -> Vec<u8> {
    (0..2_500 + 700 * group).map(|at| (at * 7 + group) as u8).collect()
}

impl Memory {
    /// Answers what is about backups.
    pub(super) fn on_backup(
        &mut self,
        node: u32,
        kind: Kind,
        body: &[u8],
    ) -> Option<(Kind, Vec<u8>)> {
        let mut out = Vec::new();
        match kind {
            BackupBegin::KIND => {
                let BackupBegin { backup, group } = BackupBegin::decode(body).unwrap();
                let leader = match group {
                    0 => self.nodes.meta_leader.max(1),
                    group => self.leaders[group as usize - 1],
                };
                if leader != node {
                    return Some(refusal(Code::NotLeader, 0, leader));
                }
                self.backups.insert((node, group), backup);
                let total = snapshot(group).len() as u64;
                let index = 10 + u64::from(group);
                BackupReady { index, term: 3, total, cache_bytes_max: 1 << 20 }.encode(&mut out);
                Some((BackupReady::KIND, out))
            }
            BackupRead::KIND => {
                let BackupRead { backup, group, offset } = BackupRead::decode(body).unwrap();
                if self.backups.get(&(node, group)) != Some(&backup) {
                    return Some(refusal(Code::BackupGone, 0, 0));
                }
                let (bytes, at) = (snapshot(group), offset as usize);
                let end = (at + PIECE).min(bytes.len());
                BackupPiece { offset, bytes: &bytes[at..end] }.encode(&mut out);
                if end == bytes.len() {
                    self.backups.remove(&(node, group));
                }
                Some((BackupPiece::KIND, out))
            }
            _ => None,
        }
    }
}
