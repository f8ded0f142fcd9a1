//! Users and groups as the container's own `/etc/passwd` and `/etc/group` name them.
//!
//! Both files come from an image: they may be absent, huge, or nonsense. They are opened beneath the container's root,
//! read up to a cap, and lines that make no sense are passed over, as the C library does.

use std::{collections::BTreeSet, io, os::fd::BorrowedFd, path::Path};

use kernel::path_in_root::read_regular;
use model::{GroupsPolicy, RunAs, UserChoice};

use crate::{Error, Result, launch_plan::User};

/// Most bytes of either file that are read. A site with 20 000 users has 2 MiB.
const MAX_FILE: usize = 8 << 20;

/// Largest id that is accepted: the kubelet's own bound.
const MAX_ID: u32 = i32::MAX as u32;

/// Most groups of a process: the kernel's `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65536;

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
    pub fn read(root: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self::parse(&read(root, "/etc/passwd")?, &read(root, "/etc/group")?))
    }

    /// Reads the content of both files.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let users = lines(passwd).filter_map(PasswdLine::parse).collect();
        let groups = lines(group).filter_map(GroupLine::parse).collect();
        Self { users, groups }
    }

    /// Who the container runs as. Precedence: the request's user, else the image's `user[:group]`, else root; the
    /// request's group over both.
    pub fn user(&self, run_as: &RunAs, image_user: &str) -> Result<User> {
        let (uid, gid, name) = match &run_as.user {
            UserChoice::Id(uid) => self.by_uid(checked_id("run_as_user", *uid)?),
            UserChoice::Name(name) => self.by_text(name)?,
            UserChoice::Image if run_as.group.is_some() => {
                return Err(Error::Invalid {
                    field: "run_as_group",
                    value: run_as.group.map(|gid| gid.to_string()).unwrap_or_default(),
                    want: "a group needs run_as_user or run_as_username beside it",
                });
            }
            UserChoice::Image => self.by_image(image_user)?,
        };
        let gid = run_as.group.map_or(Ok(gid), |gid| checked_id("run_as_group", gid))?;
        let (mut groups, mut known) = (vec![gid], BTreeSet::from([gid]));
        let of_image = match run_as.groups_policy {
            GroupsPolicy::Merge => name.map(|name| self.groups_of(&name)).unwrap_or_default(),
            GroupsPolicy::Strict => Vec::new(),
        };
        for group in run_as.supplemental_groups.iter().copied().chain(of_image) {
            let group = checked_id("supplemental_groups", group)?;
            if known.insert(group) {
                groups.push(group);
            }
        }
        if groups.len() > MAX_GROUPS {
            return Err(Error::Invalid {
                field: "supplemental_groups",
                value: format!("{} groups with those of the image", groups.len()),
                want: "at most 65536",
            });
        }
        Ok(User { uid, gid, groups })
    }

    /// Home directory of a user, if the file names one.
    pub fn home(&self, uid: u32) -> Option<&str> {
        self.users.iter().find(|line| line.uid == uid).map(|line| line.home.as_str()).filter(|home| !home.is_empty())
    }

    /// An absent id has group 0 and no memberships: images without `/etc/passwd` are common.
    fn by_uid(&self, uid: u32) -> (u32, u32, Option<String>) {
        match self.users.iter().find(|line| line.uid == uid) {
            Some(line) => (uid, line.gid, Some(line.name.clone())),
            None => (uid, 0, None),
        }
    }

    /// A name, or an id written as text.
    fn by_text(&self, text: &str) -> Result<(u32, u32, Option<String>)> {
        if let Ok(uid) = text.parse::<u32>() {
            return Ok(self.by_uid(checked_id("user", uid)?));
        }
        let line = self.users.iter().find(|line| line.name == text);
        let line = line.ok_or_else(|| Error::UserMissing { name: text.chars().take(256).collect() })?;
        Ok((line.uid, line.gid, Some(line.name.clone())))
    }

    fn by_image(&self, text: &str) -> Result<(u32, u32, Option<String>)> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let (uid, gid, name) = self.by_text(if user.is_empty() { "0" } else { user })?;
        let gid = match group {
            None => gid,
            Some(group) => match group.parse::<u32>() {
                Ok(gid) => checked_id("user", gid)?,
                Err(_) => {
                    let line = self.groups.iter().find(|line| line.name == group);
                    line.ok_or_else(|| Error::GroupMissing { name: group.chars().take(256).collect() })?.gid
                }
            },
        };
        Ok((uid, gid, name))
    }

    fn groups_of(&self, name: &str) -> Vec<u32> {
        self.groups
            .iter()
            .filter(|line| line.members.iter().any(|member| member == name))
            .map(|line| line.gid)
            .collect()
    }
}

impl PasswdLine {
    /// `name:password:uid:gid:comment:home:shell`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid <= MAX_ID)?;
        let gid = fields.next()?.parse().ok().filter(|gid| *gid <= MAX_ID)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name: name.to_owned(), uid, gid, home: home.to_owned() })
    }
}

impl GroupLine {
    /// `name:password:gid:member,member`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok().filter(|gid| *gid <= MAX_ID)?;
        let members = fields.next().unwrap_or_default();
        let members = members.split(',').map(str::trim).filter(|member| !member.is_empty()).map(str::to_owned);
        Some(Self { name: name.to_owned(), gid, members: members.collect() })
    }
}

fn checked_id(field: &'static str, id: u32) -> Result<u32> {
    if id <= MAX_ID {
        return Ok(id);
    }
    Err(Error::Invalid { field, value: id.to_string(), want: "want a number from 0 to 2147483647" })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.contains('\0'))
}

fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<Vec<u8>> {
    read_regular(root, Path::new(file), MAX_FILE).or_else(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Vec::new()),
        _ => Err(Error::Accounts { file, source }),
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

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
    fn more_groups_than_the_kernel_takes_are_refused() {
        let file: String = (0..70_000).map(|gid| format!("g{gid}:x:{gid}:web\n")).collect();
        let accounts = Accounts::parse(PASSWD, file.as_bytes());
        let refused = accounts.user(&RunAs::default(), "web");
        assert!(matches!(refused, Err(Error::Invalid { field: "supplemental_groups", .. })), "{refused:?}");
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        // A pipe nobody writes to: opening it would be acting on it, and reading it would never end.
        nix::unistd::mkfifo(&root.path().join("etc/passwd"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let dir = std::fs::File::open(root.path()).unwrap();
        let refused = Accounts::read(dir.as_fd());
        assert!(matches!(refused, Err(Error::Accounts { file: "/etc/passwd", .. })), "{refused:?}");
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
