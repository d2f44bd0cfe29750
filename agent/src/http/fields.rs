//! Which fields of a head are passed on: none that are about one connection (RFC 9110, section 7.6.1).

/// Fields of requests and responses that are about one connection, or that are written anew.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Further ones of requests. `Expect` is answered by the relay.
const REWRITTEN: [&str; 8] = [
    "close",
    "expect",
    "host",
    "servicebusauthorization",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
];

/// The fields of one head that stay behind.
pub(super) struct Hops {
    /// Named by its `Connection` fields.
    named: Vec<String>,
}

impl Hops {
    /// Of a head with these values of `Connection`.
    pub(super) fn of<'v>(connection: impl Iterator<Item = &'v [u8]>) -> Hops {
        let names = connection.flat_map(|value| value.split(|&byte| byte == b','));
        Hops { named: names.map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned()).collect() }
    }

    /// Whether `name` stays behind.
    pub(super) fn keep(&self, name: &str) -> bool {
        is_in(&HOP_BY_HOP, name) || self.named.iter().any(|named| named.eq_ignore_ascii_case(name))
    }
}

/// Whether a request's field is not passed on as it came.
pub(super) fn is_rewritten(name: &str) -> bool {
    is_in(&REWRITTEN, name)
}

fn is_in(known: &[&str], name: &str) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(name))
}
