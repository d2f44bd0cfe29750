//! azbridge's preamble, byte for byte, and that nothing else is taken for it.

use proptest::prelude::*;
use umbilical_relay_protocol::{PortMode, PreambleHead, PreambleReply};

#[test]
fn a_head_is_version_mode_and_length() {
    for (mode, name, bytes) in [
        (PortMode::Stream, "22", [0x01, 0x00, 0x00, 0x02]),
        (PortMode::Datagram, "snmp", [0x01, 0x00, 0x01, 0x04]),
        (PortMode::Stream, "", [0x01, 0x00, 0x00, 0x00]),
        // bytes, not characters
        (PortMode::Stream, "ü", [0x01, 0x00, 0x00, 0x02]),
        (PortMode::Stream, &"x".repeat(255), [0x01, 0x00, 0x00, 0xFF]),
    ] {
        let head = PreambleHead::new(mode, name).expect("short enough");
        assert_eq!(head.encode(), bytes, "{name:?}");
        assert_eq!(PreambleHead::parse(bytes), Some(head), "{name:?}");
    }
    assert_eq!(PreambleHead::new(PortMode::Stream, &"x".repeat(256)), None);
}

#[test]
fn each_reply_has_its_bytes() {
    for (reply, bytes) in [
        (PreambleReply::Accepted(PortMode::Stream), [0x01, 0x00, 0x00]),
        (PreambleReply::Accepted(PortMode::Datagram), [0x01, 0x00, 0x01]),
        (PreambleReply::VersionNotUnderstood, [0x00, 0x00, 0x00]),
        (PreambleReply::TakesDatagrams, [0x00, 0x00, 0x01]),
        (PreambleReply::TakesStream, [0x00, 0x00, 0xFF]),
    ] {
        assert_eq!(reply.encode(), bytes);
        assert_eq!(PreambleReply::parse(bytes), Some(reply));
    }
}

#[test]
fn other_versions_and_modes_are_none() {
    for head in [[2, 0, 0, 2], [1, 1, 0, 2], [0, 1, 0, 2], [1, 0, 2, 2], *b"SSH-", *b"GET "] {
        assert_eq!(PreambleHead::parse(head), None, "{head:?}");
    }
    for reply in [[2, 0, 0], [1, 1, 0], [1, 0, 2], [0, 0, 2], [0, 0, 0xFE], [0, 1, 0], *b"SSH"] {
        assert_eq!(PreambleReply::parse(reply), None, "{reply:?}");
    }
}

proptest! {
    #[test]
    fn what_is_read_is_written_the_same(head: [u8; 4], reply: [u8; 3], mode: bool, last in prop::sample::select(vec![0, 1, 2, 254, 255])) {
        for head in [head, [1, 0, u8::from(mode), head[3]]] {
            if let Some(parsed) = PreambleHead::parse(head) {
                prop_assert_eq!(parsed.encode(), head);
            }
        }
        for reply in [reply, [0, 0, last], [1, 0, last]] {
            if let Some(parsed) = PreambleReply::parse(reply) {
                prop_assert_eq!(parsed.encode(), reply);
            }
        }
    }
}
