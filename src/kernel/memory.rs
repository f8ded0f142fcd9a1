//! This process's own memory, for one that is idle nearly always.

unsafe extern "C" {
    /// Where the program begins in memory. Made by the linker; only its address means anything.
    static __executable_start: u8;
    /// Where its code ends; constants and code lie before it, what can be written after.
    static etext: u8;
}

/// Gives pages of the heap that hold nothing any more back to the kernel (`malloc_trim(3)`).
/// What one request needed would otherwise stay resident for ever.
pub fn give_back_free_pages() {
    // SAFETY: takes a number, works on the allocator's own lists under its lock, and moves nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

/// Forgets which pages of the program's code and constants were used so far: they stay in the file's memory, which all
/// processes of the program share, and are mapped again when they are needed (some microseconds for sixteen pages).
///
/// A process that slept through a busy moment otherwise keeps a page table, and a share, of everything it ever ran.
pub fn forget_program_pages() {
    let from = (&raw const __executable_start) as usize;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize;
    // The last page may hold the beginning of what can be written.
    let to = (&raw const etext) as usize & !(page - 1);
    if from.is_multiple_of(page) && from < to {
        // SAFETY: from the linker's words this range is the program's own read-only, file-backed mapping: dropping a page
        // of it loses nothing, the next touch maps the same bytes again.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_on_after_forgetting_itself() {
        give_back_free_pages();
        forget_program_pages();
        let text: String = ["still", "here"].join(" ");
        assert_eq!(text, "still here");
    }
}
