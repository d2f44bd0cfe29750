//! A program with nothing but `umbilical-mux` in it: no std, no allocator, a panic handler of its own.
//! If `mux` or a crate below it asked for std, there would be two panic handlers; if it asked for `alloc`, no allocator: neither links.
#![no_std]

extern crate umbilical_mux;

#[panic_handler]
fn halt(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
