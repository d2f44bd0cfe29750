//! The id under which this device's listener registers.
//!
//! A relay that hears the same id again knows that the older connection is a leftover. So the id must outlive a power
//! cut, on a device that can write nothing: it is derived from the machine's id and the configuration's path (two
//! agents of one machine must differ), and from randomness only where there is no machine id.

use std::fs;

use ring::digest::{Context, SHA256};

/// machine-id(5): 32 hexadecimal digits; shorter and `uninitialized` while an image boots for the first time.
const MACHINE_ID: &str = "/etc/machine-id";

/// A GUID, as relays expect it.
///
/// # Errors
/// There is no machine id, and the kernel has no randomness.
pub fn listener_id(config_file: &str) -> Result<String, getrandom::Error> {
    match fs::read_to_string(MACHINE_ID).ok().filter(|id| id.trim().len() == 32) {
        Some(machine) => Ok(guid(&derive(machine.trim(), config_file))),
        None => {
            let mut random = [0; 16];
            getrandom::fill(&mut random)?;
            Ok(guid(&random))
        }
    }
}

/// machine-id(5) asks not to show the id itself to a network.
fn derive(machine: &str, config_file: &str) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    for part in ["umbilical listener", machine, config_file] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    let digest = context.finish();
    let (first, _) = digest.as_ref().split_first_chunk().expect("a SHA-256 digest has 32 bytes");
    *first
}

/// The form of RFC 9562, version 8: sixteen bytes of the maker's own choice.
fn guid(bytes: &[u8; 16]) -> String {
    let mut bytes = *bytes;
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn it_stays_the_same_for_a_machine_and_a_file_and_differs_between_them() {
        let id = guid(&derive(MACHINE, "/etc/umbilical/agent.toml"));
        assert_eq!(id, guid(&derive(MACHINE, "/etc/umbilical/agent.toml")));
        assert_ne!(id, guid(&derive(MACHINE, "/etc/umbilical/other.toml")));
        assert_ne!(id, guid(&derive("f123456789abcdef0123456789abcdef", "/etc/umbilical/agent.toml")));
        assert!(!id.replace('-', "").contains(&MACHINE[..8]));
    }

    #[test]
    fn it_has_the_form_of_a_guid() {
        assert_eq!(guid(&[0xff; 16]), "ffffffff-ffff-8fff-bfff-ffffffffffff");
        assert_eq!(listener_id("x").unwrap().len(), 36);
    }
}
