//! Names for connections: the GUIDs that clients and relay exchange so that one finds the other's log lines, and the
//! random digits of rendezvous addresses.

use std::fmt::Write as _;

/// The longest id of a client's own making that is taken over.
const MAX_ID_BYTES: usize = 128;

const GUID_BYTES: usize = 36;

/// 128 random bits as 32 hexadecimal digits.
///
/// # Errors
/// When the system has no randomness to give.
pub(crate) fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    let mut hex = String::with_capacity(32);
    for byte in bytes {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

/// A GUID for one handshake: the client's, if it gave one, without the suffixes that relays append; else a new one.
///
/// # Errors
/// When the system has no randomness to give.
pub(crate) fn guid(given: Option<&str>) -> Result<String, getrandom::Error> {
    if let Some(guid) = given.and_then(leading_guid) {
        return Ok(guid.to_ascii_lowercase());
    }
    let hex = random_hex()?;
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// What a listener is known by: its GUID without suffixes, or any other id it gives; else a new GUID.
///
/// # Errors
/// When the system has no randomness to give.
pub(crate) fn listener_id(given: Option<&str>) -> Result<String, getrandom::Error> {
    let fit = |id: &&str| !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_graphic());
    match given.filter(fit) {
        Some(id) if leading_guid(id).is_none() => Ok(id.to_owned()),
        given => guid(given),
    }
}

/// What a listener of this id is known by.
pub(crate) fn without_suffix(id: &str) -> &str {
    leading_guid(id).unwrap_or(id)
}

/// The GUID that `id` is, or begins with before an underscore.
fn leading_guid(id: &str) -> Option<&str> {
    let (guid, suffix) = id.split_at_checked(GUID_BYTES)?;
    let fits = guid.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    (fits && (suffix.is_empty() || suffix.starts_with('_'))).then_some(guid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    #[test]
    fn a_clients_guid_is_kept_and_its_suffixes_are_not() {
        assert_eq!(guid(Some(GUID)).unwrap(), GUID);
        assert_eq!(guid(Some(&format!("{}_G0_G1", GUID.to_uppercase()))).unwrap(), GUID);
        assert_eq!(listener_id(Some(&format!("{GUID}_G0"))).unwrap(), GUID);
    }

    #[test]
    fn what_is_no_guid_is_replaced_by_one() {
        for given in [None, Some(""), Some("device"), Some(&GUID[1..]), Some(&format!("{GUID}0")[..])] {
            let made = guid(given).unwrap();
            assert_eq!(leading_guid(&made), Some(made.as_str()));
        }
        assert_ne!(guid(None).unwrap(), guid(None).unwrap());
    }

    #[test]
    fn a_listener_may_have_a_name_with_underscores() {
        assert_eq!(listener_id(Some("plant_7")).unwrap(), "plant_7");
        for given in [None, Some(""), Some("a b"), Some("a\nb"), Some(&"x".repeat(129)[..])] {
            assert_eq!(listener_id(given).unwrap().len(), GUID_BYTES);
        }
    }
}
