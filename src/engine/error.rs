//! What can go wrong between a request and a container that waits for its start.

use std::{io, path::PathBuf};

use model::Class;

/// Result of this room.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a container cannot be planned, prepared or removed. Texts keep the words that users and test suites of the
/// field know (`unable to find user`, `no such file or directory`).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field has its place in the plan, but this version does not act on it.
    #[error("{field} {value:?} is not supported by this version")]
    Unsupported {
        /// Name of the field, as the CRI spells it.
        field: &'static str,
        /// What was asked for.
        value: String,
    },
    /// A mount asked to be read-only all the way down. The kubelet matches the first word.
    #[error("RROUnsupported: recursive read-only mount on {} is not supported by this version", target.display())]
    RecursiveReadOnly {
        /// Mount point.
        target: PathBuf,
    },
    /// A field can never be right as it is.
    #[error("{field} {value:?} is invalid: {want}")]
    Invalid {
        /// Name of the field, as the CRI spells it.
        field: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        want: &'static str,
    },
    /// A runtime handler of the settings can never work.
    #[error("handlers.{name}: {value:?}: want {want}")]
    Handler {
        /// Name of the handler.
        name: String,
        /// What was given.
        value: String,
        /// What would be right.
        want: &'static str,
    },
    /// The specification in which the pod's runtime is told about a container has no form for something.
    #[error("{field} {value:?} cannot be told to the pod's runtime: {why}")]
    Untellable {
        /// Name of the field, as the CRI spells it.
        field: &'static str,
        /// What was asked for.
        value: String,
        /// What the specification lacks.
        why: &'static str,
    },
    /// The bundle of a container for another runtime could not be made.
    #[error("{act} of the runtime's bundle {}", path.display())]
    Bundle {
        /// What was done.
        act: &'static str,
        /// The bundle's directory.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Neither the request nor the image names a program.
    #[error("no command specified")]
    NoCommand,
    /// The user's name is not in the container's `/etc/passwd`.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    UserMissing {
        /// The name.
        name: String,
    },
    /// The group's name is not in the container's `/etc/group`.
    #[error("unable to find group {name}: no matching entries in group file")]
    GroupMissing {
        /// The name.
        name: String,
    },
    /// `/etc/passwd` or `/etc/group` of the container cannot be read.
    #[error("read {file} of the container")]
    Accounts {
        /// Path inside the container.
        file: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A device of the request cannot be found on the host.
    #[error("device {} on the host", path.display())]
    Device {
        /// Path on the host.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A Localhost seccomp profile cannot be read.
    #[error("read seccomp profile {}", path.display())]
    SeccompFile {
        /// Path on the host.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A seccomp profile says something that cannot be compiled.
    #[error("seccomp profile {name}: {why}")]
    SeccompProfile {
        /// Path of the profile, or `default`.
        name: String,
        /// What is wrong with it, and where.
        why: String,
    },
    /// The cgroup parent is in the form of the other driver: the most common mistake of a node's set-up.
    #[error(
        "cgroup parent {parent:?} is a systemd slice, but the cgroup driver here is cgroupfs: set cgroupDriver of the \
         kubelet to cgroupfs"
    )]
    CgroupDriver {
        /// The parent as given.
        parent: String,
    },
    /// The machine has no cgroup hierarchy that we could use.
    #[error("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup")]
    NoCgroups,
    /// A limit that this host cannot keep.
    #[error("{asked} needs the {controller} controller, which cgroup {path} does not have")]
    NoController {
        /// What was asked for, with the name of the field or setting.
        asked: String,
        /// The controller that would keep it.
        controller: String,
        /// The cgroup that lacks it.
        path: String,
    },
    /// The kernel killed a container on its way to its program, because its memory was used up.
    #[error("killed by the kernel for want of memory before its program ran: {why}")]
    LackedMemory {
        /// The limit that was too small, with the name of its field.
        why: String,
    },
    /// A directory or file of a cgroup refused.
    #[error("{act} of cgroup {path}")]
    Cgroup {
        /// What was done: `make`, `write memory.max`.
        act: String,
        /// The cgroup's directory or path.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The root filesystem of the container could not be put together.
    #[error("{act} for the root filesystem in {}", path.display())]
    Rootfs {
        /// What was done.
        act: &'static str,
        /// The container's directory.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The source of a mount could not be opened or made ready.
    #[error("{act} mount source {}", path.display())]
    MountSource {
        /// What was done.
        act: &'static str,
        /// Path on the host.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The container has more mounts than its monitor can be sent descriptors.
    #[error("mounts: {mounts} are too many, as a container can have {most}")]
    TooManyMounts {
        /// With those that every container gets.
        mounts: usize,
        /// How many there may be.
        most: usize,
    },
    /// Propagation needs a source mount that takes part in it.
    #[error("path {} is mounted on {} but it is not a {want} mount", path.display(), mounted_on.display())]
    MountPropagation {
        /// Path on the host.
        path: PathBuf,
        /// The mount it lies on.
        mounted_on: PathBuf,
        /// `shared`, or `shared or slave`.
        want: &'static str,
    },
    /// The pod's monitor could not bring the container up to its start.
    #[error(transparent)]
    Launch {
        /// What the monitor says.
        source: link::Error,
    },
    /// A descriptor or fact of this host could not be had.
    #[error("{act}")]
    Host {
        /// What was done.
        act: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Error {
    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Unsupported { .. } | Error::RecursiveReadOnly { .. } | Error::Untellable { .. } => {
                Class::Unsupported
            }
            Error::Invalid { .. }
            | Error::Handler { .. }
            | Error::NoCommand
            | Error::UserMissing { .. }
            | Error::GroupMissing { .. }
            | Error::SeccompProfile { .. }
            | Error::CgroupDriver { .. }
            | Error::TooManyMounts { .. }
            | Error::MountPropagation { .. } => Class::Invalid,
            Error::Device { source, .. } | Error::SeccompFile { source, .. } => match source.kind() {
                // Not there, or not a regular file.
                io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => Class::Invalid,
                _ => Class::of_kernel(source),
            },
            Error::Accounts { source, .. }
            | Error::Cgroup { source, .. }
            | Error::Rootfs { source, .. }
            | Error::Bundle { source, .. }
            | Error::MountSource { source, .. }
            | Error::Host { source, .. } => Class::of_kernel(source),
            Error::Launch { source } => of_launch(source),
            Error::LackedMemory { .. } => Class::Exhausted,
            // The same request may be kept once the host is set up otherwise.
            Error::NoController { .. } => Class::Precondition,
            Error::NoCgroups => Class::Internal,
        }
    }
}

/// What the kernel says of a path is the request's affair: a launch looks up no others than those that the request or
/// its image names (mount points, devices, the working directory), in the container's own root.
fn of_launch(error: &link::Error) -> Class {
    match error.errno() {
        Some(
            libc::ENOENT | libc::ENOTDIR | libc::EISDIR | libc::EACCES | libc::ELOOP | libc::ENAMETOOLONG | libc::EROFS,
        ) => Class::Invalid,
        _ => error.class(),
    }
}
