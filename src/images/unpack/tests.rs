//! Layers as builders make them, and as attackers do. Root, because owners, devices and overlay's marks need it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    sync::Arc,
    time::{Duration, Instant},
};

use kernel::xattr;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;
use testkit::{Member, archive};

use super::*;

mod refused;

/// Layers that are unpacked on top of each other below one directory.
struct Stack {
    root: TempDir,
    layers: Vec<PathBuf>,
    limits: Limits,
}

/// Entries of one layer.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, path: &str, target: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(11);
        header.set_gid(22);
        header.set_mtime(1_000_000);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        // Not by `set_path`: it refuses what an attacker would write.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, "", 0o644, content.as_bytes())
    }

    fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, "", mode, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, 0o777, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, 0o644, b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }
}

impl Stack {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("crt-images-").tempdir().unwrap();
        fs::write(root.path().join("secret"), "secret").unwrap();
        Self { root, layers: Vec::new(), limits: Limits::default() }
    }

    fn add(&mut self, layer: Layer) -> Result<LayerSize, Fault> {
        self.add_archive(&layer.0.into_inner().unwrap())
    }

    fn add_archive(&mut self, archive: &[u8]) -> Result<LayerSize, Fault> {
        let path = self.root.path().join(format!("layer-{}", self.layers.len()));
        fs::create_dir(&path).unwrap();
        let lowers: Vec<PathBuf> = self.layers.iter().rev().cloned().collect();
        self.layers.push(path.clone());
        unpack(archive, Tree::open(&path, &lowers, &self.limits)?)
    }

    /// Nothing but the layer came into being, and nothing beside it changed.
    fn is_alone(&self) {
        let names: Vec<_> = fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(fs::read_to_string(self.root.path().join("secret")).unwrap(), "secret");
    }

    fn top(&self, path: &str) -> PathBuf {
        self.layers.last().unwrap().join(path)
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let meta = self.top(path).symlink_metadata().unwrap();
        meta.file_type().is_char_device() && meta.rdev() == 0
    }

    /// What a container would see.
    fn merged<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        let target = self.root.path().join("merged");
        fs::create_dir_all(&target).unwrap();
        let lowers: Vec<String> = self.layers.iter().rev().map(|path| path.display().to_string()).collect();
        // A lower layer alone is no overlay.
        let empty = self.root.path().join("empty");
        fs::create_dir_all(&empty).unwrap();
        let options = format!("lowerdir={}:{}", lowers.join(":"), empty.display());
        let flags = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("overlay"), &target, Some("overlay"), flags, Some(options.as_str())).unwrap();
        let seen = look(&target);
        nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH).unwrap();
        seen
    }

    fn names(&self) -> Vec<String> {
        fn walk(path: &Path, below: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(below).unwrap().display().to_string());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, below, found);
                }
            }
        }
        self.merged(|root| {
            let mut found = Vec::new();
            walk(root, root, &mut found);
            found.sort();
            found
        })
    }
}

fn is_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
}

#[test]
#[ignore = "needs root: sets owners and makes devices"]
fn owners_modes_and_times_are_as_the_archive_says() {
    is_root();
    let mut stack = Stack::new();
    let layer = Layer::new()
        .directory("./", 0o751)
        .directory("d/", 0o2775)
        .entry(EntryType::Regular, "d/su", "", 0o4755, b"program")
        .symlink("d/link", "su")
        .hard_link("d/hard", "d/su")
        .entry(EntryType::Char, "null", "", 0o666, b"")
        .entry(EntryType::Fifo, "fifo", "", 0o600, b"")
        .file("missing/parents/f", "x");
    let size = stack.add(layer).unwrap();
    let meta = |path: &str| stack.top(path).symlink_metadata().unwrap();
    assert_eq!(meta("").permissions().mode() & 0o7777, 0o751);
    for path in ["d", "d/su", "d/link", "null", "fifo"] {
        assert_eq!((meta(path).uid(), meta(path).gid(), meta(path).mtime()), (11, 22, 1_000_000), "{path}");
    }
    assert_eq!(meta("d/su").mode() & 0o7777, 0o4755);
    assert_eq!(meta("d").mode() & 0o7777, 0o2775);
    assert_eq!(meta("d/hard").ino(), meta("d/su").ino());
    assert_eq!((meta("null").rdev(), meta("null").mode() & 0o777), (nix::sys::stat::makedev(1, 3), 0o666));
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!((meta("missing").uid(), meta("missing").mode() & 0o7777), (0, 0o755));
    // Root, d, su, link, null, fifo, missing, parents, f.
    assert_eq!(size, LayerSize { bytes: 4 * BLOCK + 2 * BLOCK, inodes: 9 });
}

#[test]
#[ignore = "needs root: sets capabilities"]
fn attributes_come_in_but_none_that_overlay_reads() {
    is_root();
    let mut stack = Stack::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 5] = [
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.mine", b"yes"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
    ];
    let layer = Layer::new().pax(&records).file("ping", "x").pax(&records[1..]).directory("d/", 0o755);
    stack.add(layer).unwrap();
    for (path, wanted) in [("ping", &[c"security.capability", c"user.mine"][..]), ("d", &[c"user.mine"])] {
        let file = fs::File::open(stack.top(path)).unwrap();
        let mut names = xattr::list(file.as_fd()).unwrap();
        names.sort();
        assert_eq!(names.iter().map(|name| name.as_c_str()).collect::<Vec<_>>(), wanted, "{path}");
    }
    let file = fs::File::open(stack.top("ping")).unwrap();
    assert_eq!(xattr::get(file.as_fd(), c"security.capability").unwrap().unwrap(), capability);
}

#[test]
#[ignore = "needs root: makes whiteouts"]
fn what_a_layer_deletes_is_gone_and_nothing_else() {
    is_root();
    let mut stack = Stack::new();
    let base = Layer::new()
        .file("a", "1")
        .file("dir/x", "1")
        .file("dir/y", "1")
        .file("opaque/old", "1")
        .file("again/old", "1")
        .file("tree/deep/f", "1");
    stack.add(base).unwrap();
    let top = Layer::new()
        .file(".wh.a", "")
        .file("dir/.wh.x", "")
        .file(".wh.never", "")
        .file("opaque/new", "2")
        .file("opaque/.wh..wh..opq", "")
        .file(".wh.again", "")
        .file("again/new", "2")
        .file(".wh.tree", "")
        .directory(".wh..wh.plnk", 0o700)
        .file(".wh..wh.plnk/f", "");
    stack.add(top).unwrap();
    assert!(stack.is_whiteout("a") && stack.is_whiteout("dir/x") && stack.is_whiteout("tree"));
    assert_eq!(stack.names(), ["again", "again/new", "dir", "dir/y", "opaque", "opaque/new"]);
}

/// Overlay lists what it takes for deleted where there is nothing to merge with.
#[test]
#[ignore = "needs root: makes whiteouts"]
fn a_directory_that_hides_everything_by_itself_holds_no_whiteouts() {
    is_root();
    let mut stack = Stack::new();
    stack.add(Layer::new().file("a/x", "1").file("a/deep/y", "1").file("b/x", "1").file("c/x", "1")).unwrap();
    let top = Layer::new()
        .file("a/.wh.x", "")
        .file("a/deep/.wh.y", "")
        .file("a/deep/new", "2")
        .file("a/.wh..wh..opq", "")
        .file("b/.wh.x", "")
        .file("b/.wh..wh..opq", "")
        .file("b/.wh.x", "")
        .file("c/.wh.x", "")
        .file(".wh.c", "");
    let size = stack.add(top).unwrap();
    let listed = |path: &str| fs::read_dir(stack.top(path)).unwrap().count();
    assert_eq!((listed("a"), listed("a/deep"), listed("b"), listed("c")), (1, 1, 0, 0));
    assert_eq!(stack.names(), ["a", "a/deep", "a/deep/new", "b", "c"]);
    // Root, a, deep, new, b, c.
    assert_eq!(size.inodes, 6);
}

#[test]
#[ignore = "needs root: sets access lists"]
fn what_is_made_in_a_directory_gets_nothing_that_the_archive_does_not_say() {
    is_root();
    let list = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 5,
        0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    let heirs = [Member::file("d/heir", "x"), Member::directory("d/below"), Member::file("d/undescribed/f", "x")];
    let directory = Member::directory("d").pax(&[("SCHILY.xattr.system.posix_acl_default", &list)]);
    let mut stack = Stack::new();
    stack.add_archive(&archive(&[vec![directory], heirs.to_vec()].concat())).unwrap();
    let attributes = |path: &str| xattr::list(fs::File::open(stack.top(path)).unwrap().as_fd()).unwrap();
    assert_eq!(attributes("d"), [c"system.posix_acl_default".to_owned()]);
    for path in ["d/heir", "d/below", "d/undescribed", "d/undescribed/f"] {
        assert!(attributes(path).is_empty(), "{path}: {:?}", attributes(path));
    }
    // Nor in a directory that comes from the layer below.
    stack.add_archive(&archive(&[Member::file("d/later", "x")])).unwrap();
    let attributes = |path: &str| xattr::list(fs::File::open(stack.top(path)).unwrap().as_fd()).unwrap();
    assert_eq!(attributes("d"), [c"system.posix_acl_default".to_owned()]);
    assert!(attributes("d/later").is_empty());
}

#[test]
#[ignore = "needs root: makes whiteouts"]
fn a_layer_that_hides_the_whole_root_hides_it() {
    is_root();
    let mut stack = Stack::new();
    stack.add(Layer::new().file("a", "1").file("d/old", "1")).unwrap();
    stack.add(Layer::new().file("d/new", "2").file(".wh..wh..opq", "").file("b", "2")).unwrap();
    assert_eq!(stack.names(), ["b", "d", "d/new"]);
    let mut stack = Stack::new();
    stack.add(Layer::new().file("a", "1").file("d/old", "1")).unwrap();
    stack.add(Layer::new().file(".wh..wh..opq", "").file("d/new", "2")).unwrap();
    assert_eq!(stack.names(), ["d", "d/new"]);
}

#[test]
#[ignore = "needs root: mounts overlay"]
fn a_later_layer_sees_the_directories_and_links_of_those_below() {
    is_root();
    let mut stack = Stack::new();
    let base = Layer::new()
        .directory("usr/", 0o755)
        .directory("usr/lib/", 0o711)
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib/../lib")
        .file("usr/lib/base", "1")
        .entry(EntryType::Regular, "usr/bin/su", "", 0o4755, b"su");
    stack.add(base).unwrap();
    let top = Layer::new().file("lib/one", "1").file("abs/two", "2").hard_link("usr/bin/sudo", "usr/bin/su");
    stack.add(top).unwrap();
    let lib = stack.top("usr/lib").symlink_metadata().unwrap();
    assert_eq!((lib.uid(), lib.mode() & 0o7777, lib.mtime()), (11, 0o711, 1_000_000));
    let sudo = stack.top("usr/bin/sudo").symlink_metadata().unwrap();
    assert_eq!((sudo.uid(), sudo.mode() & 0o7777, sudo.nlink()), (11, 0o4755, 2));
    let seen = stack.merged(|root| {
        ["lib/one", "usr/lib/two", "usr/lib/base", "usr/bin/sudo"]
            .map(|path| fs::read_to_string(root.join(path)).unwrap())
    });
    assert_eq!(seen, ["1", "2", "1", "su"]);
}

#[test]
#[ignore = "needs root: sets owners"]
fn an_entry_replaces_what_has_its_name() {
    is_root();
    let mut stack = Stack::new();
    stack.add(Layer::new().file("below/f", "0").file("keep/f", "0")).unwrap();
    let layer = Layer::new()
        .file("x", "1")
        .directory("x/", 0o755)
        .file("x/y", "2")
        .file("x", "3")
        .symlink("x", "nowhere")
        .entry(EntryType::Char, "x", "", 0o600, b"")
        .file("x", "last")
        .directory("keep/", 0o700)
        .file("below", "no directory any more")
        .directory("below/", 0o755);
    stack.add(layer).unwrap();
    let names = stack.names();
    assert_eq!(names, ["below", "keep", "keep/f", "x"], "a directory over a directory merges, else it hides");
    assert_eq!(fs::read_to_string(stack.top("x")).unwrap(), "last");
}

#[test]
#[ignore = "needs root: sets owners"]
fn the_root_stays_as_the_layer_below_has_it() {
    is_root();
    let mut stack = Stack::new();
    let root = Member::directory("./").mode(0o700).owner(5, 6).modified(77).pax(&[("SCHILY.xattr.user.mine", b"yes")]);
    stack.add_archive(&archive(&[root])).unwrap();
    stack.add(Layer::new().file("f", "x")).unwrap();
    stack.merged(|path| {
        let meta = path.symlink_metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), (0o700, 5, 6, 77));
        let file = fs::File::open(path).unwrap();
        assert_eq!(xattr::get(file.as_fd(), c"user.mine").unwrap().unwrap(), b"yes");
    });
    let mut stack = Stack::new();
    stack.add(Layer::new().file("a/b/f", "x")).unwrap();
    for path in ["", "a", "a/b"] {
        assert_eq!(stack.top(path).symlink_metadata().unwrap().mtime(), 0, "{path:?}: the same on every node");
    }
}

#[test]
#[ignore = "needs root: mounts overlay"]
fn what_is_unpacked_reads_like_what_was_packed() {
    is_root();
    let mut wanted = BTreeMap::new();
    let mut layer = Layer::new();
    for n in 0..300_usize {
        let path = format!("d{}/e{}/f{n}", n % 7, n % 13);
        let content = "x".repeat(n * 97 % 5000);
        layer = layer.file(&path, &content);
        wanted.insert(path, content);
    }
    let mut stack = Stack::new();
    stack.add(layer).unwrap();
    stack.merged(|root| {
        for (path, content) in &wanted {
            assert_eq!(&fs::read_to_string(root.join(path)).unwrap(), content, "{path}");
        }
    });
}

/// As GNU tar, which is on every Debian, writes them: the other side of our reader.
#[test]
#[ignore = "needs root: keeps owners"]
fn sparse_files_keep_their_content_and_their_holes() {
    is_root();
    let source = tempfile::Builder::new().prefix("crt-images-").tempdir().unwrap();
    let sparse = fs::File::create(source.path().join("sparse")).unwrap();
    // More pieces than a header has room for, and a hole at the end.
    for piece in 0..30 {
        sparse.write_all_at(&[b'a' + piece; 5000], u64::from(piece) << 20).unwrap();
    }
    sparse.set_len(40 << 20).unwrap();
    for form in [&["--format=gnu"][..], &["--sparse-version=0.0"], &["--sparse-version=0.1"], &["--sparse-version=1.0"]]
    {
        let archive = source.path().join("archive");
        let made = std::process::Command::new("tar")
            .args(["--create", "--sparse"])
            .args(if form == ["--format=gnu"] { &[][..] } else { &["--format=posix"][..] })
            .args(form)
            .arg("--file")
            .arg(&archive)
            .arg("-C")
            .arg(source.path())
            .arg("sparse")
            .status()
            .unwrap();
        assert!(made.success());
        let archive = fs::read(&archive).unwrap();
        assert!(archive.len() < 1 << 20, "{form:?}: tar has seen no holes");
        let layer = source.path().join("layer");
        fs::create_dir(&layer).unwrap();
        let limits = Limits::default();
        unpack(archive.as_slice(), Tree::open(&layer, &[], &limits).unwrap()).unwrap();
        let unpacked = layer.join("sparse");
        assert!(fs::read(&unpacked).unwrap() == fs::read(source.path().join("sparse")).unwrap(), "{form:?}");
        assert!(unpacked.metadata().unwrap().blocks() * 512 < 1 << 20, "{form:?}: the holes were filled");
        fs::remove_dir_all(&layer).unwrap();
    }
    let mut stack = Stack::new();
    stack.limits.layer_bytes = 1 << 20;
    let records: [(&str, &[u8]); 2] = [("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"9000000000000000000")];
    let bomb = stack.add(Layer::new().pax(&records).file("bomb", "x"));
    assert!(matches!(bomb, Err(Fault::Budget { .. })), "{bomb:?}");
}
