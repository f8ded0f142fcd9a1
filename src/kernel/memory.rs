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

/// Keeps the allocator from giving each thread memory of its own (`M_ARENA_MAX` of `mallopt(3)`): threads that allocate
/// rarely would hold on to pages that none of them uses. Before other threads are there.
pub fn share_heaps(count: i32) {
    // SAFETY: takes numbers; what the allocator makes of them concerns heaps to come.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
}

/// Where the program's code and constants are in memory, in whole pages: address and length. A mapping of its file,
/// which nothing writes to, so that forgetting a page of it loses nothing.
pub(crate) fn program() -> Option<(usize, usize)> {
    let from = (&raw const __executable_start) as usize;
    let page = page_size();
    // The last page may hold the beginning of what can be written.
    let to = (&raw const etext) as usize & !(page - 1);
    (from.is_multiple_of(page) && from < to).then(|| (from, to - from))
}

/// Gives back the pages of the calling thread's stack below what is in use now: the deepest call so far left them.
/// For a process of one thread without signal handlers, so that nobody else stands on this stack.
pub fn give_back_unused_stack() {
    let here = 0_u8;
    let page = page_size();
    // A page of distance: this function's own frame, and the frame of the call below, stay.
    let to = ((&raw const here) as usize & !(page - 1)) - page;
    // SAFETY: memory below the stack pointer belongs to calls that have returned: nobody reads it again before writing
    // it. What of the range is not mapped is skipped by the kernel (ENOMEM, which changes nothing here).
    unsafe { libc::madvise((to - UNUSED_STACK) as *mut libc::c_void, UNUSED_STACK, libc::MADV_DONTNEED) };
}

fn page_size() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize
}

/// How far below the stack in use pages are looked for, in bytes: no call goes deeper before something else overflows.
const UNUSED_STACK: usize = 96 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_on_after_giving_back_what_it_does_not_use() {
        give_back_free_pages();
        give_back_unused_stack();
        let text: String = ["still", "here"].join(" ");
        assert_eq!(text, "still here");
    }
}
