//! A store of records: what a crash, a newer release, a stranger or a full disk can leave in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::Path,
};

use disk::{Damage, DirLock, Error, Flusher, Store, encode};
use model::Class;

fn store(dir: &Path) -> Store<String> {
    Store::open(dir, "note", 2).expect("open a store in a fresh directory")
}

#[test]
fn a_scan_finds_what_was_put_and_not_what_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let notes = store(dir.path());
    notes.put("b", &"first".to_owned()).unwrap();
    notes.put("b", &"second".to_owned()).unwrap();
    notes.put_durable("a", &"other".to_owned()).unwrap();
    notes.put("c", &"gone".to_owned()).unwrap();
    notes.remove("c").unwrap();
    notes.remove("c").unwrap();
    let scan = store(dir.path()).scan().unwrap();
    assert_eq!(scan.good, [("a".to_owned(), "other".to_owned()), ("b".to_owned(), "second".to_owned())]);
    assert!(scan.quarantined.is_empty());
    assert_eq!(notes.load("b").unwrap().as_deref(), Some("second"));
    assert_eq!(notes.load("c").unwrap(), None);
}

#[test]
fn what_is_left_to_the_flusher_counts_at_once_and_is_tidy_when_it_settles() {
    let dir = tempfile::tempdir().unwrap();
    let notes = store(dir.path());
    let flusher = Flusher::start().unwrap();
    for text in ["first", "second", "third"] {
        notes.put_soon("a", &text.to_owned(), &flusher).unwrap();
        assert_eq!(notes.load("a").unwrap().as_deref(), Some(text));
    }
    notes.put_soon("b", &"gone".to_owned(), &flusher).unwrap();
    notes.remove_soon("b", &flusher).unwrap();
    notes.remove_soon("b", &flusher).unwrap();
    assert_eq!(notes.load("b").unwrap(), None);
    flusher.settle();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);

    // A crash before the flusher's turn: what was replaced is no record.
    notes.put_soon("a", &"fourth".to_owned(), &flusher).unwrap();
    assert_eq!(store(dir.path()).scan().unwrap().good, [("a".to_owned(), "fourth".to_owned())]);
}

#[test]
fn damaged_records_are_set_aside_with_their_reason_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let notes = store(dir.path());
    notes.put("good", &"fine".to_owned()).unwrap();
    let whole = fs::read(dir.path().join("good")).unwrap();
    fs::write(dir.path().join("empty"), "").unwrap();
    fs::write(dir.path().join("torn"), &whole[..whole.len() - 2]).unwrap();
    fs::write(dir.path().join("zeros"), vec![0; 300]).unwrap();
    fs::write(dir.path().join("other"), encode("pod", 1, &"fine").unwrap()).unwrap();
    fs::write(dir.path().join("form"), encode("note", 2, &7).unwrap()).unwrap();
    fs::write(dir.path().join("a stranger"), "hello").unwrap();
    fs::create_dir(dir.path().join("directory")).unwrap();
    symlink("/etc/passwd", dir.path().join("link")).unwrap();

    let scan = notes.scan().unwrap();
    assert_eq!(scan.good, [("good".to_owned(), "fine".to_owned())]);
    let why: BTreeMap<_, _> = scan.quarantined.iter().map(|bad| (bad.name.as_str(), &bad.why)).collect();
    let damage = |name| match why[name] {
        Error::Damaged { source, .. } => source,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(damage("empty"), &Damage::Empty);
    assert!(matches!(damage("torn"), Damage::Torn { .. }));
    assert_eq!(damage("zeros"), &Damage::NoHeader);
    assert!(matches!(damage("other"), Damage::WrongKind { .. }));
    assert!(matches!(damage("form"), Damage::Form { .. }));
    assert_eq!(damage("directory"), &Damage::NotAFile);
    assert_eq!(damage("link"), &Damage::NotAFile);
    assert!(matches!(why["a stranger"], Error::Name { .. }));
    for bad in &scan.quarantined {
        assert!(bad.path.starts_with(dir.path().join("quarantine")), "{}", bad.path.display());
        assert!(bad.path.symlink_metadata().is_ok());
    }
    let again = notes.scan().unwrap();
    assert_eq!((again.good.len(), again.quarantined.len()), (1, 0));
}

#[test]
fn two_damaged_records_of_one_name_are_both_kept() {
    let dir = tempfile::tempdir().unwrap();
    let notes = store(dir.path());
    for content in ["one", "two"] {
        fs::write(dir.path().join("bad"), content).unwrap();
        notes.scan().unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 2);
    assert_eq!(notes.quarantined().unwrap(), BTreeSet::from(["bad".to_owned()]));
}

#[test]
fn a_store_without_a_quarantine_has_nothing_in_it() {
    let dir = tempfile::tempdir().unwrap();
    assert!(store(dir.path()).quarantined().unwrap().is_empty());
}

#[test]
fn a_newer_releases_record_is_named_and_left_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let notes = store(dir.path());
    let newer = encode("note", 3, &"from the future").unwrap();
    fs::write(dir.path().join("n"), &newer).unwrap();
    let scan = notes.scan().unwrap();
    assert!(scan.good.is_empty());
    assert!(matches!(scan.quarantined[0].why, Error::Damaged { source: Damage::Newer { found: 3, newest: 2 }, .. }));
    assert_eq!(scan.quarantined[0].path, dir.path().join("n"));
    assert_eq!(fs::read(dir.path().join("n")).unwrap(), newer);
}

#[test]
fn what_an_interrupted_write_left_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".note.17-0.tmp"), "half").unwrap();
    let scan = store(dir.path()).scan().unwrap();
    assert!(scan.good.is_empty() && scan.quarantined.is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn names_that_would_leave_the_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let notes = store(dir.path());
    for name in ["", ".", "..", "../x", "a/b", ".hidden", "a b", "ä", "a\0b", &"x".repeat(201)] {
        assert!(matches!(notes.put(name, &String::new()), Err(Error::Name { .. })), "{name:?}");
        assert!(matches!(notes.remove(name), Err(Error::Name { .. })), "{name:?}");
    }
}

#[test]
fn writers_of_one_name_at_once_leave_one_whole_record() {
    let dir = tempfile::tempdir().unwrap();
    let notes = store(dir.path());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let notes = &notes;
            scope.spawn(move || {
                for round in 0..50 {
                    notes.put("same", &format!("{writer}-{round}").repeat(500)).unwrap();
                }
            });
        }
    });
    let scan = notes.scan().unwrap();
    assert_eq!((scan.good.len(), scan.quarantined.len()), (1, 0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_second_daemon_is_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let held = DirLock::take(dir.path()).unwrap();
    let refused = DirLock::take(dir.path()).unwrap_err();
    assert!(matches!(&refused, Error::InUse { pid: Some(pid), .. } if *pid == std::process::id() as i32));
    assert_eq!(refused.class(), Class::Conflict);
    drop(held);
    DirLock::take(dir.path()).unwrap();
}

#[test]
fn the_flusher_settles_with_files_directories_and_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let notes = store(dir.path());
    let flusher = Flusher::start().unwrap();
    flusher.settle();
    for many in [3, 60] {
        for n in 0..many {
            let name = format!("n{n}");
            notes.put(&name, &name).unwrap();
            flusher.soon(notes.path(&name));
        }
        flusher.soon(dir.path());
        flusher.soon(dir.path().join("never-was"));
        flusher.settle();
    }
}

#[test]
#[ignore = "needs root: mounts a small tmpfs to fill"]
fn on_a_full_disk_a_write_changes_nothing_and_a_removal_works() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let dir = tempfile::tempdir().unwrap();
    let full = Full::mount(dir.path());
    let notes = store(&full.0.join("notes"));
    notes.put("a", &"before".to_owned()).unwrap();
    let refused = loop {
        let name = format!("n{}", fs::read_dir(full.0.join("notes")).unwrap().count());
        if let Err(error) = notes.put(&name, &"x".repeat(5000)) {
            break error;
        }
    };
    assert_eq!(refused.class(), Class::Exhausted);
    assert_eq!(notes.put("a", &"y".repeat(5000)).unwrap_err().class(), Class::Exhausted);
    fs::write(full.0.join("notes/n1"), "").unwrap();
    let scan = notes.scan().unwrap();
    assert!(scan.good.iter().any(|(name, value)| name == "a" && value == "before"));
    assert_eq!(scan.quarantined.len(), 1);
    for (name, _) in scan.good {
        notes.remove(&name).unwrap();
    }
    notes.put("a", &"z".repeat(5000)).unwrap();
}

/// A file system of 64 KiB, unmounted when dropped.
struct Full(std::path::PathBuf);

impl Full {
    fn mount(at: &Path) -> Full {
        use nix::mount::{MsFlags, mount};
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).expect("mount a small tmpfs");
        Full(at.to_owned())
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
