//! Fixtures of the system tests: the real binaries, started as a user starts them, between real programs.
//!
//! Each file of `tests/` is one promise. What they share is here:
//!
//! - [`binaries`]: builds `umbilical-agent` and `umbilical-cloud`, so that a test never judges yesterday's;
//! - [`deployment`]: keys, certificates and configuration files of one device and its cloud side, in a folder of their own;
//! - [`tunnel`]: a deployment whose processes run;
//! - [`azure_stand_in`]: a relay that behaves as Azure's does where ours does not;
//! - [`programs`]: the programs on the ends: sshd, nginx, HAProxy, PostgreSQL, Azurite, iperf3, dnsmasq, snmpd, tinyproxy, each with its own configuration and folder;
//! - [`packages`]: those of them that come from npm and PyPI;
//! - [`echo`]: services for many streams, in this process;
//! - [`counted`]: a port that counts what passes;
//! - [`fault_proxy`]: a port whose connections are cut, silenced, stalled, throttled, delayed or half-closed;
//! - [`files`]: large files and their hashes;
//! - [`limits`]: how many files a process may open;
//! - [`process`]: a child whose output can be waited for, and which does not outlive its test;
//! - [`ports`], [`wait`]: free ports, conditions with a deadline.
//!
//! Nothing here sleeps and hopes: every wait names its condition and fails with what it saw instead.
//! Fixtures panic, with a sentence, where a test cannot go on.

pub mod azure_stand_in;
pub mod binaries;
pub mod counted;
pub mod deployment;
pub mod echo;
pub mod fault_proxy;
pub mod files;
pub mod limits;
pub mod packages;
pub mod ports;
pub mod process;
pub mod programs;
pub mod tunnel;
pub mod wait;
