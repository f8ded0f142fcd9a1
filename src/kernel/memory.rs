//! This process's own memory.

/// Gives pages of the heap that hold nothing any more back to the kernel (`malloc_trim(3)`).
/// For a process that is idle nearly always: what one request needed would otherwise stay resident for ever.
pub fn give_back_free_pages() {
    // SAFETY: takes a number, works on the allocator's own lists under its lock, and moves nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}
