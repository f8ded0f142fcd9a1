//! Archives as builders write them, and as attackers do.

use std::io::BufReader;

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
    let mut stream = TarStream::new(BufReader::with_capacity(100, archive), 100);
    let mut found = Vec::new();
    while let Some(entry) = stream.next()? {
        let mut content = Vec::new();
        while let Some((_, bytes)) = stream.content()? {
            content.extend(bytes);
            let taken = bytes.len();
            stream.take(taken);
        }
        found.push((entry, content));
    }
    stream.drain()?;
    Ok(found)
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    raw(b'x', &testkit::pax_records(records))
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
fn only_the_last_set_of_records_counts_and_a_gnu_name_wins_over_it() {
    let both = [pax(&[("path", b"one"), ("uid", b"7")]), pax(&[("gid", b"9")]), file("header", b"")].concat();
    let entry = &all(&both).unwrap()[0].0;
    assert_eq!((entry.path.as_slice(), entry.uid, entry.gid), (&b"header"[..], 1, 9));
    for order in [[raw(b'L', b"gnu\0"), pax(&[("path", b"pax")])], [pax(&[("path", b"pax")]), raw(b'L', b"gnu\0")]] {
        assert_eq!(all(&[order.concat(), file("header", b"")].concat()).unwrap()[0].0.path, b"gnu");
    }
}

#[test]
fn a_fault_says_where_in_the_archive_it_was() {
    let torn_content = [file("a/b", b"x"), file("c", &[1; 600])[..700].to_vec()].concat();
    let garbage = [file("a/b", b"x"), vec![7; 512]].concat();
    let list = [file("a", b""), gnu_sparse(4, &[(3, 3)], b"abc")].concat();
    for (archive, place) in
        [(torn_content, " in entry \"c\""), (garbage, " after entry \"a/b\""), (list, " in entry \"real\"")]
    {
        assert!(matches!(all(&archive), Err(Fault::Archive { at, .. }) if at == place), "{place}");
    }
    assert!(matches!(all(&[7; 512]), Err(Fault::Archive { at, .. }) if at.is_empty()));
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
    // Since ustar a file is a file, whatever its name ends in.
    assert_eq!(all(&file("f/", b"x")).unwrap()[0].0.kind, Kind::File);
}

#[test]
fn bombs_and_torn_archives_are_refused() {
    let mut huge_name = header(EntryType::GNULongName, 1 << 40);
    huge_name.set_cksum();
    let mut huge_pax = header(EntryType::XHeader, 1 << 40);
    huge_pax.set_cksum();
    let mut checksum = file("a", b"");
    checksum[0] ^= 1;
    let mut absurd = header(EntryType::Regular, 0);
    absurd.as_old_mut().size = [0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    absurd.set_cksum();
    for archive in [
        huge_name.as_bytes().to_vec(),
        huge_pax.as_bytes().to_vec(),
        absurd.as_bytes().to_vec(),
        checksum,
        file("a", &[1; 600])[..700].to_vec(),
        file("a", b"")[..300].to_vec(),
        raw(b'x', b"99 path=x\n"),
        raw(b'x', b"path=x\n"),
        pax(&[("size", b"-1")]),
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

/// A file of 5000 bytes that is `aaa` at its beginning and `bbbb` at 4096, in each form.
fn sparse_files() -> [(&'static str, Vec<u8>); 4] {
    let named = [("GNU.sparse.name", &b"real"[..]), ("GNU.sparse.size", b"5000"), ("GNU.sparse.numblocks", b"3")];
    let zero = [("offset", "0"), ("numbytes", "3"), ("offset", "4096"), ("numbytes", "4"), ("offset", "5000")];
    let mut zero: Vec<(String, &[u8])> =
        zero.iter().map(|(key, value)| (format!("GNU.sparse.{key}"), value.as_bytes())).collect();
    zero.push(("GNU.sparse.numbytes".into(), b"0"));
    let zero: Vec<(&str, &[u8])> =
        named.into_iter().chain(zero.iter().map(|(key, value)| (key.as_str(), *value))).collect();
    let one = named.into_iter().chain([("GNU.sparse.map", &b"0,3,4096,4,5000,0"[..])]);
    let in_content = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"real"),
        ("GNU.sparse.realsize", b"5000"),
    ];
    let mut content = b"3\n0\n3\n4096\n4\n5000\n0\n".to_vec();
    content.resize(512, 0);
    content.extend(b"aaabbbb");
    [
        ("GNU", gnu_sparse(5000, &[(0, 3), (4096, 4), (5000, 0)], b"aaabbbb")),
        ("PAX 0.0", [pax(&zero), file("stand-in", b"aaabbbb")].concat()),
        ("PAX 0.1", [pax(&one.collect::<Vec<_>>()), file("stand-in", b"aaabbbb")].concat()),
        ("PAX 1.0", [pax(&in_content), file("stand-in", &content)].concat()),
    ]
}

/// GNU's own form: four pieces in the header, 21 in each block behind it.
fn gnu_sparse(size: u64, pieces: &[(u64, u64)], content: &[u8]) -> Vec<u8> {
    let mut header = header(EntryType::GNUSparse, content.len() as u64);
    header.set_path("real").unwrap();
    let gnu = header.as_gnu_mut().unwrap();
    let octal = |number: u64| <[u8; 12]>::try_from(format!("{number:011o}\0").as_bytes()).unwrap();
    gnu.realsize = octal(size);
    let (in_header, behind) = pieces.split_at(pieces.len().min(4));
    for (place, piece) in gnu.sparse.iter_mut().zip(in_header) {
        (place.offset, place.numbytes) = (octal(piece.0), octal(piece.1));
    }
    gnu.isextended[0] = u8::from(!behind.is_empty());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    let blocks = behind.chunks(21).count();
    for (index, chunk) in behind.chunks(21).enumerate() {
        let mut block = GnuExtSparseHeader::new();
        for (place, piece) in block.sparse.iter_mut().zip(chunk) {
            (place.offset, place.numbytes) = (octal(piece.0), octal(piece.1));
        }
        block.isextended[0] = u8::from(index + 1 < blocks);
        bytes.extend(block.as_bytes());
    }
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Bytes and where in the file they belong.
type Piece = (u64, Vec<u8>);

/// The first file and its pieces.
fn pieces(archive: &[u8]) -> Result<(Entry, Vec<Piece>), Fault> {
    let mut stream = TarStream::new(archive, 100);
    let entry = stream.next()?.unwrap();
    let mut found = Vec::new();
    while let Some((at, bytes)) = stream.content()? {
        found.push((at, bytes.to_vec()));
        let taken = bytes.len();
        stream.take(taken);
    }
    Ok((entry, found))
}

#[test]
fn a_sparse_file_is_read_in_every_form_and_what_follows_it_too() {
    for (form, archive) in sparse_files() {
        let (entry, found) = pieces(&archive).unwrap_or_else(|fault| panic!("{form}: {fault}"));
        assert_eq!((entry.path.as_slice(), entry.size, entry.kind), (&b"real"[..], 5000, Kind::File), "{form}");
        assert_eq!(found, [(0, b"aaa".to_vec()), (4096, b"bbbb".to_vec())], "{form}");
        // Read, and skipped: the next entry is found either way.
        let archive = [archive, file("next", b"x")].concat();
        let entries = all(&archive).unwrap();
        assert_eq!((entries[0].1.as_slice(), entries[1].0.path.as_slice()), (&b"aaabbbb"[..], &b"next"[..]), "{form}");
        let mut stream = TarStream::new(archive.as_slice(), 100);
        stream.next().unwrap();
        assert_eq!(stream.next().unwrap().unwrap().path, b"next", "{form}");
    }
}

#[test]
fn a_sparse_list_may_go_on_in_blocks_of_its_own() {
    let list: Vec<(u64, u64)> = (0..60).map(|n| (n * 10, 1)).collect();
    let (entry, found) = pieces(&gnu_sparse(700, &list, &[b'x'; 60])).unwrap();
    assert_eq!(entry.size, 700);
    assert_eq!(found, (0..60).map(|n| (n * 10, b"x".to_vec())).collect::<Vec<_>>());
}

#[test]
fn a_sparse_list_that_does_not_fit_its_file_is_refused() {
    let endless = [b"9999999999\n".to_vec(), b"1\n".repeat(1 << 20)].concat();
    let in_content = |content: &[u8]| {
        let records: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"5")];
        [pax(&records), file("f", content)].concat()
    };
    let in_records = |map: &[u8], size: &[u8]| {
        [pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)]), file("f", b"abc")].concat()
    };
    for (what, archive) in [
        ("overlap", gnu_sparse(100, &[(0, 3), (2, 3)], b"abcabc")),
        ("backwards", gnu_sparse(100, &[(50, 3), (0, 3)], b"abcabc")),
        ("beyond the end", gnu_sparse(4, &[(3, 3)], b"abc")),
        ("more content than pieces", gnu_sparse(100, &[(0, 2)], b"abc")),
        ("less content than pieces", gnu_sparse(100, &[(0, 4)], b"abc")),
        ("overflow", in_records(b"18446744073709551615,3", b"18446744073709551615")),
        ("no size", [pax(&[("GNU.sparse.map", b"0,3")]), file("f", b"abc")].concat()),
        ("half a pair", in_records(b"0,3,5", b"9")),
        ("no number", in_records(b"0,x", b"9")),
        ("a length alone", [pax(&[("GNU.sparse.numbytes", b"3")]), file("f", b"abc")].concat()),
        (
            "another version",
            [pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.size", b"3")]), file("f", b"abc")].concat(),
        ),
        ("no list", in_content(b"")),
        ("a list without end", in_content(&endless)),
        ("a number without end", in_content(&b"1".repeat(2048))),
        ("a list cut short", in_content(b"2\n0\n1\n")),
    ] {
        assert!(matches!(pieces(&archive), Err(Fault::Archive { .. })), "{what}: {:?}", pieces(&archive));
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = all(&bytes);
    }

    #[test]
    fn no_damage_panics(at in 0_usize..12_000, byte: u8) {
        let mut archive = [pax(&[("path", b"abc"), ("mtime", b"1.5")]), file("a", &[1; 700]), file("b", b"x")].concat();
        sparse_files().into_iter().for_each(|(_, sparse)| archive.extend(sparse));
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
