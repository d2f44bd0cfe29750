//! Time since boot, suspend included: `Instant` stands still while a device sleeps.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long the device has been up.
#[must_use]
pub fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_and_agrees_with_the_kernel() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let kernel: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
        let ours = boot_time().as_secs_f64();
        assert!((ours - kernel).abs() < 5.0, "{ours} here, {kernel} in /proc/uptime");
    }
}
