//! `tercet cache`.

use crate::Done;
use crate::args::{Cache, Common};
use crate::output::{Failure, Output, add_bytes, argument, exit, name};
use serde_json::{Map, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

pub fn cache(common: &Common, command: Cache, output: &Output) -> Done {
    match command {
        Cache::Get { key } => get(common, &key, output),
        Cache::Put { key, value, ttl, if_version, if_absent } => {
            let value = argument(&value)?;
            let client = common.connect()?;
            let mut put = client.cache().put(key.as_bytes(), value);
            if let Some(ttl) = ttl {
                put = put.ttl(ttl);
            }
            if let Some(version) = if_version {
                put = put.if_version(version);
            }
            if if_absent {
                put = put.if_absent();
            }
            let version = put.wait()?;
            client.close();
            let document = json!({ "key": name(key.as_bytes()), "version": version });
            output.result(&document, &version.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Cache::Del { key, if_version } => {
            let client = common.connect()?;
            let mut delete = client.cache().delete(key.as_bytes());
            if let Some(version) = if_version {
                delete = delete.if_version(version);
            }
            let deleted = delete.wait()?;
            client.close();
            let version = deleted.ok_or_else(|| absent(&key))?;
            let document =
                json!({ "key": name(key.as_bytes()), "version": version, "deleted": true });
            output.result(&document, &version.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn get(common: &Common, key: &OsStr, output: &Output) -> Done {
    let client = common.connect()?;
    let line = client.cache().get(key.as_bytes()).wait()?;
    let line = line.ok_or_else(|| absent(key))?;
    let mut document = Map::new();
    document.insert(String::from("key"), name(key.as_bytes()));
    document.insert(String::from("version"), json!(line.version));
    add_bytes(&mut document, "value", &line.value);
    output.bytes(&document.into(), &line.value, "")?;
    Ok(ExitCode::SUCCESS)
}

fn absent(key: &OsStr) -> Failure {
    let what = format!("the cache has no line \"{}\"", key.to_string_lossy());
    Failure::Other(exit::NOT_THERE, what)
}
