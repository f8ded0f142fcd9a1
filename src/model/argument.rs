//! What a program can be given when it is started: the bounds of execve(2), for the doors that let requests and images
//! in.

/// Longest argument or `name=value`, bytes: the kernel's `MAX_ARG_STRLEN` (32 pages) less the NUL.
pub const ARGUMENT_MAX: usize = 32 * 4096 - 1;

/// All arguments and variables together, bytes as [`argument_space`] counts them: a quarter of the usual stack of 8
/// MiB. A program with a larger stack could be given more; nothing that runs on nodes needs it.
pub const ARGUMENTS_MAX: usize = 2 << 20;

/// What a text of so many bytes takes of that space: itself, its NUL and the pointer to it.
pub const fn argument_space(bytes: usize) -> usize {
    bytes + 1 + size_of::<usize>()
}
