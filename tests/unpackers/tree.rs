//! What is in a directory, to the last attribute: for each name the texts that tell it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fs::{self, File, Metadata},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
};

use kernel::xattr;
use nix::sys::stat::{major, minor};
use testkit::digest_of;

/// For each name its type, owner, mode and whatever else it has.
pub(crate) type Tree = BTreeMap<String, BTreeMap<String, String>>;

/// What a name has that only the other tree has.
const ABSENT: &str = "(absent)";
/// What there is instead of an error.
const UNPACKED: &str = "(unpacked)";

/// Reads a whole directory.
pub(crate) fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first_names = HashMap::new();
    describe(&mut tree, &mut first_names, root, Path::new(""));
    tree
}

/// Everything that is not the same in both, as `etc/passwd mode`, with what it is in each. What is of another type, or
/// not there, differs in nothing else; and that both were refused is no equality.
pub(crate) fn differences<'a>(
    ours: &'a Result<Tree, String>,
    theirs: &'a Result<Tree, String>,
) -> Vec<(String, &'a str, &'a str)> {
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (ours, theirs) => {
            let said = |unpacked: &'a Result<Tree, String>| unpacked.as_ref().err().map_or(UNPACKED, String::as_str);
            return vec![("refused".to_owned(), said(ours), said(theirs))];
        }
    };
    let of = |tree: &'a Tree, name: &str, what: &str| {
        tree.get(name).and_then(|has| has.get(what)).map_or(ABSENT, String::as_str)
    };
    let mut found = Vec::new();
    for name in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let is_same = of(ours, name, "type") == of(theirs, name, "type");
        let whats = [ours, theirs].into_iter().filter_map(|tree| tree.get(name)).flat_map(BTreeMap::keys);
        for what in whats.collect::<BTreeSet<_>>().into_iter().filter(|what| is_same || *what == "type") {
            found.push((format!("{name} {what}"), of(ours, name, what), of(theirs, name, what)));
        }
    }
    found.retain(|(_, ours, theirs)| ours != theirs);
    found
}

fn describe(tree: &mut Tree, first_names: &mut HashMap<u64, String>, root: &Path, path: &Path) {
    let whole = root.join(path);
    let name = match path.as_os_str().as_bytes() {
        b"" => "/".to_owned(),
        bytes => bytes.escape_ascii().to_string(),
    };
    // Overlay lists a whiteout of nothing, and finds nothing by its name.
    let Ok(meta) = whole.symlink_metadata() else {
        tree.entry(name).or_default().insert("type".to_owned(), "listed, and not there".to_owned());
        return;
    };
    let kind = meta.file_type();
    let has = tree.entry(name.clone()).or_default();
    let mut put = |what: &str, text: String| _ = has.insert(what.to_owned(), text);
    put("type", kind_of(&meta).to_owned());
    put("owner", format!("{}:{}", meta.uid(), meta.gid()));
    put("modified", format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()));
    if !kind.is_symlink() {
        put("mode", format!("{:04o}", meta.mode() & 0o7777));
    }
    if kind.is_symlink() {
        put("target", fs::read_link(&whole).unwrap().as_os_str().as_bytes().escape_ascii().to_string());
    }
    if kind.is_file() {
        put("content", format!("{} bytes, {}", meta.len(), digest_of(&fs::read(&whole).unwrap())));
    }
    if kind.is_char_device() || kind.is_block_device() {
        put("device", format!("{}:{}", major(meta.rdev()), minor(meta.rdev())));
    }
    if !kind.is_dir() {
        put("links", meta.nlink().to_string());
        if meta.nlink() > 1 {
            put("file", first_names.entry(meta.ino()).or_insert_with(|| name.clone()).clone());
        }
    }
    let (parent, last) = match (whole.parent(), path.file_name()) {
        (Some(parent), Some(last)) => (parent.to_owned(), last.to_owned()),
        _ => (whole.clone(), OsStr::new(".").to_owned()),
    };
    let parent = File::open(parent).unwrap();
    for attribute in xattr::list_at(parent.as_fd(), Path::new(&last)).unwrap() {
        let value = xattr::get_at(parent.as_fd(), Path::new(&last), &attribute).unwrap().unwrap_or_default();
        put(&format!("attribute {}", attribute.to_string_lossy()), value.escape_ascii().to_string());
    }
    if kind.is_dir() {
        let mut names: Vec<PathBuf> =
            fs::read_dir(&whole).unwrap().map(|entry| path.join(entry.unwrap().file_name())).collect();
        names.sort();
        names.iter().for_each(|path| describe(tree, first_names, root, path));
    }
}

fn kind_of(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "link",
        () if kind.is_char_device() => "character device",
        () if kind.is_block_device() => "block device",
        () if kind.is_fifo() => "fifo",
        () => "something else",
    }
}

#[test]
fn every_difference_is_found_and_equal_trees_have_none() {
    let dir = tempfile::Builder::new().prefix("crt-unpackers-").tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/file"), "x").unwrap();
    fs::hard_link(dir.path().join("a/b/file"), dir.path().join("a/second")).unwrap();
    let before = Ok(read(dir.path()));
    let tree = before.as_ref().unwrap();
    assert_eq!((tree["a/b/file"]["links"].as_str(), tree["a/second"]["file"].as_str()), ("2", "a/b/file"));
    assert!(differences(&before, &Ok(read(dir.path()))).is_empty());
    std::os::unix::fs::symlink("file", dir.path().join("a/b/link")).unwrap();
    fs::remove_file(dir.path().join("a/second")).unwrap();
    let after = Ok(read(dir.path()));
    let found = differences(&before, &after).into_iter().map(|(what, ..)| what);
    // Clocks of file systems may stand still for so short a time.
    let found: Vec<_> = found.filter(|what| !what.ends_with(" modified")).collect();
    assert_eq!(found, ["a/b/file file", "a/b/file links", "a/b/link type", "a/second type"]);
    let refused = Err("why".to_owned());
    assert_eq!(differences(&before, &refused), [("refused".to_owned(), UNPACKED, "why")]);
    assert_eq!(differences(&refused, &refused).len(), 1, "that nothing was seen on either side is no equality");
}
