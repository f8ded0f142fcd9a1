//! What is mounted where, as the kernel tells it (`/proc/<pid>/mountinfo`, `proc_pid_mountinfo(5)`).
//!
//! For start-up and questions, not for hot paths: the cost grows with the table.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// One mount of the calling thread's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number, unique while it lives.
    pub id: u64,
    /// The mount it hangs on.
    pub parent: u64,
    /// The device number of its filesystem: major and minor.
    pub device: (u32, u32),
    /// Which directory (or file) of the filesystem is shown.
    pub root: PathBuf,
    /// Where it is shown.
    pub mount_point: PathBuf,
    /// Attributes of the mount: `ro`, `nosuid`, …
    pub attributes: String,
    /// The group it shares mounts with.
    pub shared: Option<u64>,
    /// The group it receives mounts from.
    pub master: Option<u64>,
    /// The type of filesystem.
    pub fstype: String,
    /// The device or whatever the filesystem calls its source.
    pub source: String,
    /// Options of the filesystem, such as a v1 hierarchy's controllers.
    pub options: String,
}

/// Every mount that the calling thread sees, in the order in which they were made.
pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/thread-self/mountinfo")?))
}

/// The mount that holds `path`: the last one made over the longest prefix. `path` is absolute and holds no links.
pub fn holding<'table>(table: &'table [MountEntry], path: &Path) -> Option<&'table MountEntry> {
    let over = table.iter().filter(|entry| path.starts_with(&entry.mount_point));
    // max_by_key keeps the last of equals, which hides the earlier ones.
    over.max_by_key(|entry| entry.mount_point.components().count())
}

/// A line that is not understood is left out: a newer kernel's additions must not hide the rest.
fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(entry).collect()
}

fn entry(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = text(fields.next()?);
    let (major, minor) = device.split_once(':')?;
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let attributes = text(fields.next()?);
    let (mut shared, mut master) = (None, None);
    loop {
        match fields.next()? {
            b"-" => break,
            tag if tag.starts_with(b"shared:") => shared = number(&tag[7..]),
            tag if tag.starts_with(b"master:") => master = number(&tag[7..]),
            _ => {}
        }
    }
    Some(MountEntry {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        mount_point,
        attributes,
        shared,
        master,
        fstype: text(fields.next()?),
        source: fields.next().map(text).unwrap_or_default(),
        options: fields.next().map(text).unwrap_or_default(),
    })
}

/// Undoes the kernel's `\ooo` for blanks, tabs, line ends and backslashes.
fn path(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            _ => {
                plain.push(*first);
                after
            }
        };
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r"
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /a\040b\134 ro,nosuid master:4 propagate_from:2 new:tag - tmpfs none rw,size=4k
a broken line
24 22 0:6 /x /a rw - cgroup2 cgroup
25 24 0:7 / /a rw - proc proc rw
";

    #[test]
    fn every_field_is_read_and_broken_lines_are_left_out() {
        let table = parse(TABLE.as_bytes());
        assert_eq!(table.iter().map(|entry| entry.id).collect::<Vec<_>>(), [22, 23, 24, 25]);
        assert_eq!((table[0].shared, table[0].master, table[0].device), (Some(1), None, (254, 0)));
        assert_eq!((table[1].shared, table[1].master), (None, Some(4)));
        assert_eq!(table[1].mount_point, Path::new(r"/a b\"));
        assert_eq!((table[2].root.as_path(), table[2].fstype.as_str()), (Path::new("/x"), "cgroup2"));
        assert_eq!((table[2].source.as_str(), table[2].options.as_str()), ("cgroup", ""));
    }

    #[test]
    fn a_path_is_held_by_the_last_mount_over_its_longest_prefix() {
        let table = parse(TABLE.as_bytes());
        assert_eq!(holding(&table, Path::new("/ab/c")).map(|entry| entry.id), Some(22));
        assert_eq!(holding(&table, Path::new("/a/c")).map(|entry| entry.id), Some(25));
        assert_eq!(holding(&[], Path::new("/a")), None);
    }

    #[test]
    fn the_real_table_has_a_root() {
        assert!(holding(&read().unwrap(), Path::new("/")).is_some());
    }
}
