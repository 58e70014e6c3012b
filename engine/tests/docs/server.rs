//! Every setting and every metric of the server stands once in the operators' page.

use super::numbers::PAGE;
use super::pages::{cells, hold, lines, read, table};
use clap::{Arg, CommandFactory};
use engine::edge::config::{Arguments, Config, Settings};
use engine::edge::metrics;
use engine::edge::report::{Facts, Gathered, NoteCounts, Phase};
use engine::ids::{ClusterId, Incarnation, NodeId};
use engine::machine::meta::Meta;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A setting's help, and its default: what stands behind it in brackets.
fn help(arg: &Arg) -> (String, String) {
    let help = arg.get_help().expect("every setting has a help").to_string().replace('\n', " ");
    match help.split_once(" [default: ") {
        Some((what, default)) => {
            (what.to_string(), default.trim_end_matches(']').trim().to_string())
        }
        None => (help, "none".into()),
    }
}

#[test]
fn every_setting_stands_in_the_operators_page() {
    let command = Arguments::command();
    let settings: Vec<&Arg> =
        command.get_arguments().filter(|arg| arg.get_env().is_some()).collect();
    assert!(settings.len() > 20, "the settings were not found");
    let rows = settings.iter().map(|arg| {
        let name = arg.get_long().expect("a setting has a long name");
        let env = format!("TERCET_{}", name.to_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(env.as_str()), "its environment");
        let (what, default) = help(arg);
        [format!("`--{name}`"), default, what]
    });
    let rows: Vec<_> = rows.collect();
    hold(PAGE, "settings", |_| table(["setting", "default", "what it says"], rows));
}

/// What a node counts, as it tells it to whoever asks; there need be nothing to count.
fn scraped() -> String {
    let facts = Facts {
        node: NodeId(1),
        cluster: ClusterId([1; 16]),
        incarnation: Incarnation([1; 16]),
        engines: 1,
        renewed: vec![],
        threads: 1,
        cpus: None,
        shards: 1,
        writer: "direct",
        writer_why: String::new(),
        listen: String::new(),
        advertise: String::new(),
        http: String::new(),
        started: Instant::now(),
        startup: Duration::ZERO,
        settings: Config::resolve(Settings::default()).expect("defaults are right").settings(),
    };
    let gathered = Gathered {
        engines: vec![],
        counters: vec![],
        notes: NoteCounts::default(),
        phase: Phase::Running,
        fatal: None,
        lacking: 0,
        nodes: Meta::founded(ClusterId([1; 16]), 1, [].into_iter()),
    };
    metrics::text(&facts, &gathered)
}

#[test]
fn every_metric_stands_in_the_operators_page() {
    let text = scraped();
    let mut rows = Vec::new();
    for family in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, what) = family.split_once(' ').expect("a name and a help");
        let ty = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        let ty = ty.expect("each family has a type");
        let total = if ty == "counter" { "_total" } else { "" };
        let what = what.trim_end_matches('.').to_string();
        rows.push([format!("`{name}{total}`"), ty.to_string(), what]);
    }
    assert!(rows.len() > 50, "the metrics were not found");
    hold(PAGE, "metrics", |_| table(["metric", "type", "what it counts"], rows));
}

#[test]
fn no_setting_and_no_metric_stands_there_twice() {
    let page = read(PAGE);
    let mut seen = BTreeSet::new();
    for row in lines(&page.text).filter_map(cells) {
        let named = row[0].starts_with("`--") || row[0].starts_with("`tercet_");
        assert!(!named || seen.insert(row[0].clone()), "{} has two rows", row[0]);
    }
}

#[test]
fn every_exit_code_of_a_number_is_one_that_the_server_explains() {
    let help = Arguments::command().get_after_long_help().expect("there is one").to_string();
    let (_, codes) = help.split_once("EXIT CODES:\n").expect("it has exit codes");
    let codes = codes.lines().filter_map(|line| line.trim_start().split(' ').next());
    let codes: BTreeSet<&str> = codes.filter(|code| code.parse::<u8>().is_ok()).collect();
    let page = read(PAGE);
    for row in numbered(&page.text) {
        for exit in exits(&row).filter(|exit| *exit != "none") {
            assert!(codes.contains(exit), "{}: `tercetd --help` has no exit code {exit}", row[0]);
        }
    }
}

/// The rows of the numbers: each with its exit codes.
fn numbered(page: &str) -> Vec<Vec<String>> {
    let (_, rows) = page.split_once("\n## Numbers\n").expect("the page has the numbers");
    let rows = rows.split("\n## ").next().expect("a split has a first part");
    lines(rows).filter_map(cells).skip(1).collect()
}

fn exits(row: &[String]) -> impl Iterator<Item = &str> {
    row[1].split([',', ' ']).filter(|exit| !exit.is_empty())
}

#[test]
fn the_server_ends_with_the_exit_code_that_its_number_has_in_the_page() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs-exits");
    // It is there only after a run that failed.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("wrong.toml"), "no-such-key = 1\n").expect("a file");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|at| (taken, at)).expect("it has an address");
    let address = taken.1.to_string();
    let cases: [(&str, &[&str]); 8] = [
        ("E110", &["--data-dir", "wrong.toml"]),
        ("E124", &["restore", "no-such-file", "--data-dir", "a"]),
        ("E125", &["restore", "wrong.toml", "--data-dir", "b"]),
        ("E130", &["--data-dir", "c", "--listen", &address, "--http", "127.0.0.1:0"]),
        ("E140", &["--config", "no-such-file"]),
        ("E141", &["--config", "wrong.toml"]),
        ("E142", &["--engines", "2", "--shards", "1"]),
        ("E150", &["recover", "d", "--data-dir", "e"]),
    ];
    let rows = numbered(&read(PAGE).text);
    for (number, arguments) in cases {
        let server = std::process::Command::new(env!("CARGO_BIN_EXE_tercetd"))
            .args(arguments)
            .current_dir(&dir)
            .output();
        let ended = server.expect("the server starts");
        let said = String::from_utf8_lossy(&ended.stderr);
        let row = rows.iter().find(|row| row[0] == number).expect("each number has a row");
        let code = ended.status.code().expect("it was not killed").to_string();
        assert!(said.contains(&format!("{number} ")), "{number}: {said}");
        assert!(exits(row).any(|exit| exit == code), "{number}: it ended with {code}");
    }
    std::fs::remove_dir_all(&dir).expect("the directory goes");
}
