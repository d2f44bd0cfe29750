//! What the allocator keeps of freed memory, given back to the system.

/// Gives freed memory back: starting up, and shaking hands, takes more than running does. glibc would keep up to 128 KiB
/// of it for good (`M_TRIM_THRESHOLD`); other C libraries keep little.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "no safe wrapper exists")]
pub fn give_back_freed_memory() {
    // SAFETY: malloc_trim(3) takes no pointer, touches only memory that is free, and is safe to call from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Gives freed memory back: nothing to do here.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_freed_memory() {}

/// Has large blocks, such as what a session works in, given back when they are freed. glibc would do so with the first of them
/// and keep those that come later (`M_MMAP_THRESHOLD` is raised by it).
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "no safe wrapper exists")]
pub fn give_back_large_blocks() {
    const LARGE: i32 = 128 * 1024;
    // SAFETY: mallopt(3) takes no pointer; it must not run beside another thread's first allocation, and there is one thread yet.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Has large blocks given back when they are freed: other C libraries do.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_large_blocks() {}
