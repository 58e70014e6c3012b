//! Files of a data directory that are gone, empty or zeroed when a node starts.

use super::*;

/// What happens to a file or a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Gone,
    Empty,
    Zeroed,
}

fn lose(path: &std::path::Path, loss: Loss) {
    let bytes = std::fs::metadata(path).unwrap().len();
    match loss {
        Loss::Gone if path.is_dir() => std::fs::remove_dir_all(path).unwrap(),
        Loss::Gone => std::fs::remove_file(path).unwrap(),
        Loss::Empty => drop(std::fs::File::create(path).unwrap()),
        Loss::Zeroed => std::fs::File::create(path).unwrap().set_len(bytes).unwrap(),
    }
}

#[test]
fn a_file_that_an_engine_lost_is_noticed_before_it_serves_or_was_not_needed() {
    let place = Place::new(1, 1);
    let data_dir = place.dir.path().join("node-1");
    let kept = place.dir.path().join("kept");
    let node = place.start(0, 1);
    let mut client = place.client(0, 0);
    open_session(&mut client, [1; 16], b"key");
    put(&mut client, [1; 16], 1, b"key", b"acknowledged");
    node.stop();
    std::fs::rename(&data_dir, &kept).unwrap();
    let again = |what: &str, loss: Loss| {
        let _ = std::fs::remove_dir_all(&data_dir);
        let copied = std::process::Command::new("cp").arg("-r").args([&kept, &data_dir]).status();
        assert!(copied.unwrap().success());
        lose(&data_dir.join(what), loss);
        let (post, _inbox) = mailbox(CONTROL_MAILBOX_MAX).unwrap();
        match start(place.plan(0, 1, post)) {
            Err(error) => Some(error.to_string()),
            Ok(plane) => {
                plane.stop();
                plane.join().unwrap();
                None
            }
        }
    };
    let holds = |slot: u32| {
        let path = segments::path(&segments::engine_dir(&kept, 0), slot);
        std::fs::read(path).unwrap().iter().any(|byte| *byte != 0)
    };
    assert!(holds(0) && !holds(1), "all is in the first segment");
    let table = [
        ("engine-00/wal/0000.seg", Loss::Gone, Some("E109")),
        ("engine-00/wal/0000.seg", Loss::Empty, Some("E306")),
        ("engine-00/wal/0000.seg", Loss::Zeroed, Some("E109")),
        ("engine-00/wal/0001.seg", Loss::Gone, None),
        ("engine-00/wal/0001.seg", Loss::Empty, Some("E306")),
        ("engine-00/wal/0001.seg", Loss::Zeroed, None),
        ("engine-00/wal/witness", Loss::Gone, None),
        ("engine-00/wal/witness", Loss::Empty, None),
        ("engine-00/wal/witness", Loss::Zeroed, None),
        ("engine-00.witness", Loss::Gone, None),
        ("engine-00.witness", Loss::Empty, None),
        ("engine-00.witness", Loss::Zeroed, None),
        ("engine-00/wal", Loss::Gone, Some("E107")),
        ("engine-00", Loss::Gone, Some("E107")),
    ];
    for (what, loss, expected) in table {
        let refused = again(what, loss);
        match expected {
            Some(code) => {
                let refused = refused.unwrap_or_else(|| panic!("{what} {loss:?}: it started"));
                assert!(refused.contains(code), "{what} {loss:?}: {refused}");
            }
            None => {
                assert_eq!(refused, None, "{what} {loss:?}");
                let said = crate::edge::wal::witness::load(&data_dir, 0).unwrap();
                let [beside, inside] = said.copies();
                assert!(beside.is_some() && beside == inside, "both copies are there again");
                let node = place.start(0, 1);
                assert_eq!(get(&mut place.client(0, 0), b"key"), b"acknowledged");
                node.stop();
            }
        }
    }
}
