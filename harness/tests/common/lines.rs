//! Cache lines whose writes were acknowledged: they must be there, whatever happened since.

use client::Client;
use std::collections::BTreeMap;

/// What was acknowledged last of each key: its version and its value.
#[derive(Default)]
pub struct Lines(BTreeMap<String, (u64, Vec<u8>)>);

impl Lines {
    /// Puts lines that can be told apart.
    pub fn put_many(client: &Client, count: u32) -> Lines {
        let mut lines = Lines::default();
        (0..count).for_each(|key| lines.put(client, key, format!("value {key}").into_bytes()));
        lines
    }

    /// Puts a line, and waits until it is acknowledged.
    pub fn put(&mut self, client: &Client, key: u32, value: Vec<u8>) {
        let key = format!("key/{key}");
        let put = client.cache().put(key.clone(), value.clone());
        self.0.insert(key, (put.wait().expect("a put is acknowledged"), value));
    }

    /// Every one is there as it was acknowledged.
    pub fn assert_there(&self, client: &Client) {
        for (key, (version, value)) in &self.0 {
            let line = client.cache().get(key.clone()).wait().expect("a get is answered");
            let line = line.unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
            assert!(line.version == *version && line.value == value, "{key}");
        }
    }
}
