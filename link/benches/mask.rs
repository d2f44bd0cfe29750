//! How fast frames are masked, in cache: `cargo bench -p umbilical-link --bench mask`. Expect more than 10 GB/s on a
//! desktop processor; much less means that the loops no longer become vector instructions.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use umbilical_link::frame::{apply_mask, copy_masked};

const ROUNDS: u32 = 200_000;

fn main() {
    for length in [64, 1400, 16 * 1024] {
        let source = vec![0x5A; length];
        let mut target = vec![0; length];
        measure("in place", length, |offset| apply_mask(black_box(&mut target), black_box([1, 2, 3, 4]), offset));
        measure("copying", length, |offset| {
            copy_masked(black_box(&mut target), black_box(&source), black_box([1, 2, 3, 4]), offset);
        });
    }
}

fn measure(name: &str, length: usize, mut work: impl FnMut(u64)) {
    let started = Instant::now();
    for round in 0..ROUNDS {
        work(u64::from(round));
    }
    let nanoseconds = started.elapsed().as_nanos() as f64;
    println!("{name:>8} {length:>6} B: {:6.1} GB/s", length as f64 * f64::from(ROUNDS) / nanoseconds);
}
