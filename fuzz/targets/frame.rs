//! A byte stream: as it comes, and with lengths and checksums made right, so that what lies behind them
//! is reached too. A frame that is split off is what was put in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::HEADER_BYTES;
use wire::limits::{FRAME_BYTES_MAX, PEER_FRAME_BYTES_MAX};

fuzz_target!(|bytes: &[u8]| {
    for max in [FRAME_BYTES_MAX, PEER_FRAME_BYTES_MAX, HEADER_BYTES] {
        let mut rest = bytes;
        while let Ok(Some(frame)) = wire::split(rest, max) {
            assert!(frame.used >= HEADER_BYTES && frame.used <= rest.len());
            assert_eq!(frame.body.len(), frame.used - HEADER_BYTES);
            rest = &rest[frame.used..];
        }
    }
    if bytes.len() >= HEADER_BYTES {
        let mut sealed = bytes.to_vec();
        sealed[..4].copy_from_slice(b"TCT1");
        wire::finish(&mut sealed, 0);
        if let Ok(Some(frame)) = wire::split(&sealed, FRAME_BYTES_MAX) {
            assert_eq!(frame.body, &sealed[HEADER_BYTES..frame.used]);
        }
    }
});
