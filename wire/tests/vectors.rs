//! Placeholder
use wire::message::*;
#[test]
fn hand_and_rkyv_agree() {
    let m = CachePut {
        session: [3; 16],
        sequence: 9,
        answered_below: 4,
        version: 7,
        ttl_ms: 1,
        expect: 2,
        key: b"key",
        value: b"value",
    };
    let mut a = Vec::new();
    m.encode(&mut a);
    assert_eq!(a, m.archived());
    assert_eq!(CachePut::view(&a).unwrap(), m);
    assert_eq!(CachePut::decode(&a).unwrap(), m);
    let m = CachePut { key: b"", value: b"", ..m };
    let mut a = Vec::new();
    m.encode(&mut a);
    assert_eq!(a, m.archived());
}
