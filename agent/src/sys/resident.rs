//! How much memory this process has.

use std::fs;

/// Resident memory in bytes, as `/proc/self/status` has it (proc(5)); `None` without a `/proc`.
#[must_use]
pub fn resident_bytes() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_what_is_touched() {
        let before = resident_bytes().unwrap();
        let touched = vec![1_u8; 32 * 1024 * 1024];
        let after = resident_bytes().unwrap();
        assert!(after > before + touched.len() / 2, "{before} before, {after} after");
    }
}
