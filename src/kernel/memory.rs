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

/// Gives back the pages of the calling thread's stack below what is in use now: the deepest call so far left them.
/// For a process of one thread without signal handlers, so that nobody else stands on this stack.
pub fn give_back_unused_stack() {
    let here = 0_u8;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize;
    // A page of distance: this function's own frame, and the frame of the call below, stay.
    let to = ((&raw const here) as usize & !(page - 1)) - page;
    // SAFETY: memory below the stack pointer belongs to calls that have returned: nobody reads it again before writing it.
    // What of the range is not mapped is skipped by the kernel (ENOMEM, which changes nothing here).
    unsafe { libc::madvise((to - UNUSED_STACK) as *mut libc::c_void, UNUSED_STACK, libc::MADV_DONTNEED) };
}

/// How far below the stack in use pages are looked for, in bytes: no call goes deeper before something else overflows.
const UNUSED_STACK: usize = 96 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_on_after_forgetting_itself() {
        give_back_free_pages();
        forget_program_pages();
        give_back_unused_stack();
        let text: String = ["still", "here"].join(" ");
        assert_eq!(text, "still here");
    }
}
