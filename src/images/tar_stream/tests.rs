//! Archives as builders write them, and as attackers do.

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header
}

fn all(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Fault> {
    let mut stream = TarStream::new(archive, 100);
    let mut found = Vec::new();
    while let Some(entry) = stream.next()? {
        let mut content = vec![0; 4096];
        let mut filled = 0;
        loop {
            match stream.read_content(&mut content[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        content.truncate(filled);
        found.push((entry, content));
    }
    stream.drain()?;
    Ok(found)
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        body.extend(format!("{length} {key}=").bytes());
        body.extend(*value);
        body.push(b'\n');
    }
    raw(b'x', &body)
}

fn raw(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut header = header(EntryType::new(kind), body.len() as u64);
    header.set_path("meta").unwrap();
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = header(EntryType::Regular, content.len() as u64);
    header.set_path(path).unwrap();
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn what_the_tar_crate_writes_is_read_back() {
    let mut builder = Builder::new(Vec::new());
    let long = format!("{}/file", "directory".repeat(30));
    builder.append_data(&mut header(EntryType::Regular, 5), "a", &b"hello"[..]).unwrap();
    builder.append_data(&mut header(EntryType::Regular, 600), &long, &[7; 600][..]).unwrap();
    builder.append_link(&mut header(EntryType::Symlink, 0), "link", &long).unwrap();
    builder.append_data(&mut header(EntryType::Directory, 0), "dir/", &[][..]).unwrap();
    let archive = builder.into_inner().unwrap();
    let found = all(&archive).unwrap();
    let kinds: Vec<Kind> = found.iter().map(|(entry, _)| entry.kind).collect();
    assert_eq!(kinds, [Kind::File, Kind::File, Kind::Symlink, Kind::Directory]);
    assert_eq!(found[0].1, b"hello");
    assert_eq!((found[0].0.mode, found[0].0.uid, found[0].0.gid, found[0].0.modified), (0o4755, 1, 2, (3, 0)));
    assert_eq!((found[1].0.path.as_slice(), found[1].1.len()), (long.as_bytes(), 600));
    assert_eq!(found[2].0.target, long.as_bytes());
}

#[test]
fn pax_records_win_over_the_header() {
    let records = pax(&[
        ("path", "p/ä".as_bytes()),
        ("size", b"3"),
        ("uid", b"70000"),
        ("gid", b"4000000000"),
        ("mtime", b"-1.25"),
        ("SCHILY.xattr.security.capability", b"\x01\n\x00="),
        ("SCHILY.xattr.user.empty", b""),
        ("comment", b"x"),
    ]);
    let archive = [records, file("ignored", b"abc")].concat();
    let found = all(&archive).unwrap();
    let entry = &found[0].0;
    assert_eq!(entry.path, "p/ä".as_bytes());
    assert_eq!((entry.uid, entry.gid, entry.modified), (70000, 4_000_000_000, (-2, 750_000_000)));
    assert_eq!(entry.xattrs[0], (b"security.capability".to_vec(), b"\x01\n\x00=".to_vec()));
    assert_eq!(entry.xattrs[1].0, b"user.empty");
    assert_eq!(found[0].1, b"abc");
}

#[test]
fn a_global_header_changes_nothing_and_the_last_word_before_an_entry_counts() {
    let archive =
        [raw(b'g', b"11 path=xx\n"), pax(&[("path", b"one")]), pax(&[("path", b"two")]), file("z", b"")].concat();
    assert_eq!(all(&archive).unwrap()[0].0.path, b"two");
}

#[test]
fn old_and_odd_headers_are_understood() {
    let mut old = Header::new_old();
    old.as_old_mut().name[..4].copy_from_slice(b"dir/");
    old.set_cksum();
    assert_eq!(all(old.as_bytes()).unwrap()[0].0.kind, Kind::Directory);
    let mut big = header(EntryType::Regular, 0);
    big.set_path("big").unwrap();
    big.set_uid(0xffff_fffe);
    big.set_cksum();
    assert_eq!(all(big.as_bytes()).unwrap()[0].0.uid, 0xffff_fffe);
    // A hard link that tells the size of what it links to has no content.
    let mut link = header(EntryType::Link, 5000);
    link.set_path("l").unwrap();
    link.set_link_name("t").unwrap();
    link.set_cksum();
    let archive = [link.as_bytes().as_slice(), &file("f", b"x")].concat();
    assert_eq!(all(&archive).unwrap().len(), 2);
}

#[test]
fn bombs_and_torn_archives_are_refused() {
    let mut huge_name = header(EntryType::GNULongName, 1 << 40);
    huge_name.set_cksum();
    let mut huge_pax = header(EntryType::XHeader, 1 << 40);
    huge_pax.set_cksum();
    let mut sparse = header(EntryType::GNUSparse, 0);
    sparse.set_cksum();
    let mut checksum = file("a", b"");
    checksum[0] ^= 1;
    let mut absurd = header(EntryType::Regular, 0);
    absurd.as_old_mut().size = [0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    absurd.set_cksum();
    for archive in [
        huge_name.as_bytes().to_vec(),
        huge_pax.as_bytes().to_vec(),
        sparse.as_bytes().to_vec(),
        absurd.as_bytes().to_vec(),
        checksum,
        file("a", &[1; 600])[..700].to_vec(),
        file("a", b"")[..300].to_vec(),
        raw(b'x', b"99 path=x\n"),
        raw(b'x', b"path=x\n"),
        pax(&[("size", b"-1")]),
        pax(&[("GNU.sparse.major", b"1")]),
        [vec![0; 512], file("a", b"")].concat(),
        raw(b'?', b""),
        file("x", b"").repeat(101),
        raw(b'g', b"").repeat(101),
    ] {
        assert!(all(&archive).is_err(), "{}", String::from_utf8_lossy(&archive[..100]));
    }
    assert!(matches!(all(&file("x", b"").repeat(101)), Err(Fault::Budget { .. })));
    assert!(all(b"").unwrap().is_empty());
    assert!(all(&[0; 4096]).unwrap().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = all(&bytes);
    }

    #[test]
    fn no_damage_panics(at in 0_usize..3000, byte: u8) {
        let mut archive = [pax(&[("path", b"abc"), ("mtime", b"1.5")]), file("a", &[1; 700]), file("b", b"x")].concat();
        let at = at % archive.len();
        archive[at] = byte;
        let _ = all(&archive);
        // The checksum made right, so that what lies behind it is reached too.
        for start in (0..archive.len()).step_by(512) {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&archive[start..start + 512]);
            header.set_cksum();
            let mut mended = archive.clone();
            mended[start..start + 512].copy_from_slice(header.as_bytes());
            let _ = all(&mended);
        }
    }
}
