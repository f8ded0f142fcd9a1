//! What a container may do, and what it never sees.

mod capability;
mod privileged;
mod protected_path;
mod seccomp;
mod set_id;
mod sight;
