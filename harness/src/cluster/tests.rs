use super::*;

fn cluster() -> Cluster {
    let config = ClusterConfig {
        nodes: 2,
        cores: 1,
        shards: Some(3),
        tercetd: None,
        first_port: None,
        data_dir: PathBuf::from("nowhere"),
        keep: Keep::Data,
        flags: ["--wal", "direct", "--log=debug"].map(String::from).to_vec(),
        cpus: vec![vec![0], vec![1]],
        homes: Vec::new(),
        files_max: None,
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let node = |node| Process {
        node,
        address,
        http: address,
        data_dir: PathBuf::from("nowhere"),
        log: PathBuf::from("nowhere.log"),
        startup_ms: 0.0,
        child: None,
        started: Instant::now(),
    };
    let (tercetd, peers, nodes) = (PathBuf::new(), "1=a,2=b".into(), vec![node(1), node(2)]);
    Cluster { config, launcher: None, tercetd, peers, nodes, leaders_ms: 0.0 }
}

#[test]
fn a_flag_is_given_once_and_the_last_word_counts() {
    let cluster = cluster();
    let plain = cluster.arguments(&cluster.nodes[1], &[]).join(" ");
    assert!(plain.contains("--node 2 --peers 1=a,2=b"), "{plain}");
    assert!(plain.ends_with("--cores 1 --shards 3 --pin 1 --wal direct --log=debug"), "{plain}");
    let flags = ["--cores", "4", "--wal=mapped", "--log", "info", "--pin", "none"];
    let changed = cluster.arguments(&cluster.nodes[1], &flags).join(" ");
    assert!(changed.ends_with("--shards 3 --cores 4 --wal=mapped --log info --pin none"));
}

#[test]
fn nodes_that_do_not_run_weigh_nothing_and_are_no_leaders() {
    let cluster = cluster();
    assert_eq!(cluster.weights(), [Weight::default(); 2]);
    assert_eq!((cluster.pid(1), cluster.leader_of(0)), (None, None));
}
