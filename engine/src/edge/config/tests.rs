use super::*;

fn arguments(line: &str) -> Arguments {
    Arguments::try_parse_from(line.split_whitespace()).expect("the flags are known")
}

fn file(text: &str) -> Settings {
    read_file("t.toml".as_ref(), text).expect("the file is right")
}

#[test]
fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
    let flags = arguments("tercetd --node 2 --listen 127.0.0.1:9000").settings;
    let below = file("node = 7\nlisten = \"127.0.0.1:1\"\nshards = 48\nsegment-size = \"32MiB\"\n");
    let config = Config::resolve(flags.over(below)).unwrap();
    assert_eq!(config.node, NodeId(2));
    assert_eq!(config.listen, "127.0.0.1:9000".parse::<SocketAddr>().unwrap());
    assert_eq!((config.shards, config.segment_bytes), (48, 32 << 20));
    assert_eq!(config.segments_max, SEGMENTS_MAX_DEFAULT);
}

#[test]
fn a_cluster_is_born_with_three_shards_for_each_engine_of_a_node_and_more_if_more_found_it() {
    let five = "--peers 1=a:1,2=b:1,3=c:1,4=d:1,5=e:1";
    for (flags, shards) in [
        ("--cores 1", 3),
        ("--cores 8", 24),
        ("--cores 8 --engines 2", 6),
        (&format!("--cores 2 {five}"), 10),
        ("--cores 2 --shards 7", 7),
        ("--cores 8 --shards 4", 4),
    ] {
        let settings = arguments(&format!("tercetd {flags}")).settings;
        let config = Config::resolve(settings).unwrap();
        assert_eq!(config.shards, shards, "{flags}");
        assert!(config.engines <= shards, "{flags}: an engine would keep nothing");
    }
}

#[test]
fn the_environment_goes_between_flags_and_file() {
    use clap::CommandFactory;
    let names: Vec<String> = Arguments::command()
        .get_arguments()
        .filter_map(|a| Some((a.get_id().to_string(), a.get_env()?.to_str()?.to_owned())))
        .map(|(id, env)| {
            assert!(env.starts_with("TERCET_"), "{env} of {id}");
            id
        })
        .collect();
    // Clap itself takes a flag before its environment; every setting must have one.
    for field in ["node", "peers", "data_dir", "listen", "http", "cores", "log", "config"] {
        assert!(names.iter().any(|n| n == field), "{field} has no environment");
    }
}

#[test]
fn an_unknown_key_is_refused_by_name_and_line() {
    let e = read_file("t.toml".as_ref(), "node = 1\nshrads = 12\n").unwrap_err().to_string();
    assert!(e.starts_with("E141 ") && e.contains("line 2"), "{e}");
    assert!(e.contains("unknown key `shrads`"), "{e}");
    assert!(!e.contains('\n'), "{e}");
}

#[test]
fn a_restore_takes_its_settings_behind_its_name_and_only_there() {
    let restore = arguments("tercetd restore a.backup --node 3 --listen 127.0.0.1:9000");
    let config = Config::load(&restore).unwrap();
    assert_eq!((config.node, config.listen.port()), (NodeId(3), 9000));
    let Some(Command::Restore(restore)) = restore.command else { panic!("it is a restore") };
    assert_eq!(restore.file, PathBuf::from("a.backup"));
    let before = "tercetd --node 3 restore a.backup".split_whitespace();
    assert!(Arguments::try_parse_from(before).is_err());
    assert!(Arguments::try_parse_from(["tercetd", "restore"]).is_err(), "of which file?");
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    let line = "tercetd --node 2 --peers 1=a:1,2=b:2,3=c:3 --pin 0,2-3 --cores 3 --wal direct";
    let config = Config::load(&arguments(line)).unwrap();
    let text = toml::to_string(&config.settings()).unwrap();
    assert_eq!(Config::resolve(file(&text)).unwrap(), config, "{text}");
}

#[test]
fn contradictions_are_refused_in_one_line() {
    for (line, says) in [
        ("--node 0", "node is 0"),
        ("--node 4 --peers 1=a:1,2=b:2", "does not name this node, 4"),
        ("--heartbeat-ms 100", "election-timeout-min-ms"),
        ("--election-timeout-min-ms 300", "election-timeout-max-ms"),
        ("--segment-size 1MiB", "segment-size"),
        ("--segment-size 33554433", "multiple of 4096"),
        ("--listen 127.0.0.1:7480", "both 127.0.0.1:7480"),
        ("--cores 2 --engines 2 --pin 0", "name one for each"),
        ("--engines 20 --shards 4", "engines is 20"),
        ("--advertise nowhere", "HOST:PORT"),
        ("--config /does/not/exist", "E140"),
    ] {
        let e = Config::load(&arguments(&format!("tercetd {line}"))).unwrap_err().to_string();
        assert!(e.contains(says) && !e.contains('\n'), "{line}: {e}");
    }
}

#[test]
fn malformed_values_are_refused() {
    for peers in ["1", "0=a:1", "x=a:1", "1=a", "1=a:0", "1=:5", "1=a:1,1=b:1", "1=a:1,2=a:1"] {
        assert!(peers.parse::<Peers>().is_err(), "{peers}");
    }
    assert!("".parse::<Peers>().unwrap().is_empty());
    for size in ["", "MiB", "12Q", "-1", "99999999999GiB"] {
        assert!(size.parse::<Bytes>().is_err(), "{size}");
    }
    assert_eq!("64MiB".parse::<Bytes>().unwrap().0, 64 << 20);
    assert_eq!(Bytes(64 << 20).to_string(), "64MiB");
    for pin in ["", "x", "3-1", "1,,2"] {
        assert!(pin.parse::<Pin>().is_err(), "{pin}");
    }
}

#[test]
fn a_node_is_reached_as_it_says_else_as_it_is_listed_else_where_it_is_bound() {
    let bound = "0.0.0.0:7400".parse().unwrap();
    let at = |line: &str| Config::load(&arguments(line)).unwrap().advertised(bound);
    assert_eq!(at("tercetd --advertise x:1 --peers 1=y:2"), "x:1");
    assert_eq!(at("tercetd --peers 1=y:2"), "y:2");
    assert_eq!(at("tercetd"), "127.0.0.1:7400");
}
