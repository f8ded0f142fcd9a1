//! Users and groups as the container's own `/etc/passwd` and `/etc/group` name them.
//!
//! Both files come from an image: they may be absent, huge, or nonsense. They are opened beneath the container's root,
//! read up to a cap, and lines that make no sense are passed over, as the C library does.

use std::{
    fs::File,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use kernel::path_in_root::{OpenFlags, open_in_root, read_limited};
use model::{GroupsPolicy, RunAs, UserChoice};

use crate::{Error, Result, launch_plan::User};

/// Most bytes of either file that are read. A site with 20 000 users has 2 MiB.
const MAX_FILE: usize = 8 << 20;

/// Largest id that is accepted: the kubelet's own bound.
const MAX_ID: u32 = i32::MAX as u32;

/// What the two files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    users: Vec<PasswdLine>,
    groups: Vec<GroupLine>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PasswdLine {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupLine {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// Reads both files beneath the container's root. Absent files are empty ones.
    pub fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<Vec<u8>> {
    read_regular(root, Path::new(file)).or_else(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Vec::new()),
        _ => Err(Error::Accounts { file, source }),
    })
}

fn read_regular(root: BorrowedFd<'_>, path: &Path) -> io::Result<Vec<u8>> {
    // NONBLOCK: an image may have a named pipe there, and nobody at its other end.
    let flags = OpenFlags::O_RDONLY | OpenFlags::O_NONBLOCK | OpenFlags::O_NOCTTY;
    let file = File::from(open_in_root(root, path, flags, 0)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    read_limited(OwnedFd::from(file), MAX_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# comment\nnonsense\n:x:5:5::/:\nbig:x:4294967295:1::/:\n\
        web:x:1000:1001:Web,,,:/srv/web:/bin/sh\nbad:x:-1:0::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nwww:x:1001:\nlogs:x:50:web,other\naudio:x:63:other\nextra:x:60: web ,\nbroken\n";

    fn accounts() -> Accounts {
        Accounts::parse(PASSWD, GROUP)
    }

    fn run_as(user: UserChoice) -> RunAs {
        RunAs { user, ..RunAs::default() }
    }

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        User { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn the_image_names_its_user_in_every_form() {
        let of = |text: &str| accounts().user(&RunAs::default(), text);
        assert_eq!(of("").unwrap(), user(0, 0, &[0]));
        assert_eq!(of("web").unwrap(), user(1000, 1001, &[1001, 50, 60]));
        assert_eq!(of("1000").unwrap(), user(1000, 1001, &[1001, 50, 60]));
        assert_eq!(of("web:audio").unwrap(), user(1000, 63, &[63, 50, 60]));
        assert_eq!(of("7:8").unwrap(), user(7, 8, &[8]));
        assert_eq!(of(":50").unwrap(), user(0, 50, &[50]));
        assert!(matches!(of("nobody"), Err(Error::UserMissing { .. })));
        assert!(matches!(of("web:none"), Err(Error::GroupMissing { .. })));
        assert!(matches!(of("4294967295"), Err(Error::Invalid { .. })));
    }

    #[test]
    fn a_group_needs_a_user_beside_it() {
        let alone = RunAs { group: Some(5), ..RunAs::default() };
        assert!(matches!(accounts().user(&alone, "web"), Err(Error::Invalid { field: "run_as_group", .. })));
        let both = RunAs { group: Some(5), ..run_as(UserChoice::Name("web".into())) };
        assert_eq!(accounts().user(&both, "").unwrap(), user(1000, 5, &[5, 50, 60]));
    }

    #[test]
    fn strict_policy_forgets_what_the_image_says() {
        let choice = RunAs { supplemental_groups: vec![9, 1001, 9], ..run_as(UserChoice::Id(1000)) };
        assert_eq!(accounts().user(&choice, "").unwrap(), user(1000, 1001, &[1001, 9, 50, 60]));
        let strict = RunAs { groups_policy: GroupsPolicy::Strict, ..choice };
        assert_eq!(accounts().user(&strict, "").unwrap(), user(1000, 1001, &[1001, 9]));
    }

    #[test]
    fn homes_are_found_by_id() {
        assert_eq!(accounts().home(1000), Some("/srv/web"));
        assert_eq!(accounts().home(7), None);
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_the_parser_fall(passwd: Vec<u8>, group: Vec<u8>) {
            let accounts = Accounts::parse(&passwd, &group);
            let _ = accounts.user(&RunAs::default(), "web:www");
        }
    }
}
