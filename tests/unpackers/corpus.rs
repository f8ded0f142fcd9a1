//! Images with everything in their layers that an archive can say: every type of entry, every form of header, every way
//! to delete and to replace. Made from nothing, and the same at each call.

use std::io::Write;

use testkit::{Form, Member, archive};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// `cap_net_raw+ep`, as the kernel keeps it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::---`, as the kernel keeps it.
const ACCESS_LIST: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 5, 0,
    255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// An image of the corpus.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Lowest first.
    pub(crate) layers: Vec<Packed>,
}

/// A layer as it is, and as a registry has it.
pub(crate) struct Packed {
    pub(crate) tar: Vec<u8>,
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: &'static str,
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("every type of entry", &[every_type()]),
        case("names", &[names()]),
        case("names that are not tidy", &[untidy_names()]),
        case("parents that nobody describes", &[parentless()]),
        case("numbers", &[numbers()]),
        case("times", &[times()]),
        case("modes", &[modes()]),
        case("attributes", &[attributes()]),
        case("attributes of another machine", &[foreign_attributes()]),
        case("attributes that nothing keeps", &[attributes_of_links()]),
        case("headers that speak of the next", &[headers_of_headers()]),
        case("global headers", &[global_headers()]),
        case("old headers", &[old_headers()]),
        case("sparse files of GNU", &[gnu_sparse_files()]),
        case("sparse files of PAX", &[pax_sparse_files()]),
        case("one name twice", &[twice()]),
        case("another type from layer to layer", &changing_types()),
        case("names of links on the way", &through_links()),
        case("a directory over a link", &directory_over_link()),
        case("what is deleted", &deleted()),
        case("deleted and made again", &made_again()),
        case("deleted after it was made", &deleted_after()),
        case("whiteouts of nothing", &[whiteouts_of_nothing()]),
        case("whiteouts of odd types", &odd_whiteouts()),
        case("opaque directories", &opaque()),
        case("an opaque root", &opaque_root()),
        case("what another union file system left", &[foreign_names()]),
        case("hard links", &[hard_links()]),
        case("hard links to layers below", &lower_hard_links()),
        case("hard links with other attributes", &[odd_hard_links()]),
        case("parents of layers below", &lower_parents()),
        case("deep", &[deep()]),
        case("a path that leaves the root", &[vec![Member::file("../../left", "x"), Member::file("stayed", "x")]]),
        case(
            "a link that leaves the root",
            &[vec![Member::directory("d/"), Member::symlink("d/out", "../../.."), Member::file("d/out/left", "x")]],
        ),
        case("an overlay whiteout as a device", &[vec![Member::file("f", "x")], vec![Member::character("f", 0, 0)]]),
    ];
    cases.extend(compressed());
    cases
}

fn case(name: &'static str, layers: &[Vec<Member>]) -> Case {
    let plain = |members: &Vec<Member>| packed(archive(members), TAR, <[u8]>::to_vec);
    Case { name, layers: layers.iter().map(plain).collect() }
}

fn packed(tar: Vec<u8>, media_type: &'static str, pack: impl Fn(&[u8]) -> Vec<u8>) -> Packed {
    Packed { blob: pack(&tar), tar, media_type }
}

fn every_type() -> Vec<Member> {
    vec![
        Member::directory("./").mode(0o751).owner(3, 4),
        Member::directory("d/").owner(11, 22),
        Member::file("d/file", "content").owner(11, 22),
        Member::file("d/empty", ""),
        Member::file("d/large", [7; 300_000]),
        Member::file("d/program", "#!").mode(0o4755).owner(1000, 1000),
        Member::file("d/group-program", "#!").mode(0o2755).owner(0, 5),
        Member::directory("d/shared/").mode(0o2775).owner(0, 50),
        Member::directory("tmp/").mode(0o1777),
        Member::symlink("d/link", "file").owner(9, 9),
        Member::symlink("d/dangling", "../no/such/place"),
        Member::symlink("d/absolute", "/etc/passwd"),
        Member::symlink("d/long", "x".repeat(200)).form(Form::Gnu),
        Member::hard_link("d/second", "d/file").owner(11, 22),
        Member::character("null", 1, 3).mode(0o666).owner(0, 5),
        Member::character("large-number", 4095, 1_048_575),
        Member::block("loop", 7, 300).mode(0o660).owner(0, 6),
        Member::fifo("fifo").mode(0o620).owner(2, 3),
    ]
}

fn names() -> Vec<Member> {
    let exact = "n".repeat(100);
    let split = format!("{}/{}", "p".repeat(90), "q".repeat(100));
    let long = format!("{}/{}/{}", "l".repeat(120), "m".repeat(150), "n".repeat(255));
    let records: [(&str, &[u8]); 1] = [("path", long.as_bytes())];
    let both: [(&str, &[u8]); 2] = [("path", "pax/ü".as_bytes()), ("linkpath", "ziel/ö".as_bytes())];
    vec![
        Member::file(&exact, "exact"),
        Member::directory("p".repeat(90)),
        Member::file(&split, "split"),
        Member::directory("l".repeat(120)).form(Form::Gnu),
        Member::directory(format!("{}/{}", "l".repeat(120), "m".repeat(150))).form(Form::Gnu),
        Member::file(&long, "long, as GNU").form(Form::Gnu),
        Member::file("stand-in", "long, as PAX").pax(&records),
        Member::directory("pax/"),
        Member::symlink("stand-in", "stand-in").pax(&both),
        Member::hard_link("second", &long).form(Form::Gnu),
        Member::file(b"not \xff UTF-8", "x"),
        Member::file("line\nbreak", "x"),
        Member::file(" space ", "x"),
        Member::file("-rf", "x"),
        Member::file("ünï", "x"),
        Member::file(".wh", "not a whiteout"),
        Member::file("..dots", "x"),
    ]
}

fn untidy_names() -> Vec<Member> {
    vec![
        Member::directory("./a"),
        Member::directory("a/b///"),
        Member::file("./a/./b//c", "1"),
        Member::file("/a/absolute", "2"),
        Member::file("a/b/../up", "3"),
        Member::file("no/../sideways", "4"),
        Member::hard_link("/a/hard", "/a/./b/c"),
        Member::symlink("a/untidy", "./b//../b/c"),
    ]
}

fn parentless() -> Vec<Member> {
    vec![Member::file("a/b/c/file", "x"), Member::directory("d/e/").mode(0o700), Member::symlink("f/link", "../a")]
}

fn numbers() -> Vec<Member> {
    let large: [(&str, &[u8]); 3] = [("uid", b"4000000000"), ("gid", b"70000"), ("size", b"5")];
    vec![
        Member::file("binary", "content").binary().owner(1, 2),
        Member::file("binary-owner", "content").owner(0xffff_fff0, 3_000_000),
        Member::file("pax", "12345").size(0).pax(&large),
        Member::character("binary-device", 200, 70_000).binary(),
        Member::file("spaces", "x").patch(108, b"    17 \0"),
        Member::file("no-nul", "x").patch(108, b"00000017"),
        Member::file("empty", "x").patch(108, b"\0\0\0\0\0\0\0\0"),
    ]
}

fn times() -> Vec<Member> {
    let pax = |path: &str, time: &str| Member::file(path, "x").pax(&[("mtime", time.as_bytes())]);
    vec![
        Member::directory("d/").modified(86_400),
        pax("d/half", "1500000000.5"),
        pax("d/nano", "1500000000.123456789"),
        pax("d/longer-than-nano", "1500000000.1234567891"),
        pax("d/before-1970", "-1.25"),
        pax("d/zero", "0"),
        Member::file("d/later", "x").modified(4_000_000_000),
        Member::file("d/much-later", "x").modified(12_000_000_000),
        Member::file("d/negative", "x").modified(-1000),
        Member::symlink("d/link", "x").modified(5),
        Member::directory("e/").pax(&[("mtime", b"7.000000007")]),
        Member::fifo("d/fifo").modified(6),
    ]
}

fn modes() -> Vec<Member> {
    let mut members: Vec<Member> = [0, 0o1, 0o111, 0o644, 0o7777, 0o4000, 0o2000, 0o1000]
        .into_iter()
        .flat_map(|mode| {
            [Member::file(format!("f{mode:o}"), "x").mode(mode), Member::directory(format!("d{mode:o}")).mode(mode)]
        })
        .collect();
    // The type in the mode is no news.
    members.push(Member::file("typed", "x").mode(0o100_755));
    members.push(Member::character("device", 1, 5).mode(0o20_7666));
    members
}

fn attributes() -> Vec<Member> {
    let capability: (&str, &[u8]) = ("SCHILY.xattr.security.capability", &CAPABILITY);
    let list: (&str, &[u8]) = ("SCHILY.xattr.system.posix_acl_access", &ACCESS_LIST);
    let default: (&str, &[u8]) = ("SCHILY.xattr.system.posix_acl_default", &ACCESS_LIST);
    let user: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.user.text", b"text"),
        ("SCHILY.xattr.user.bytes", b"\0\n=\xff"),
        ("SCHILY.xattr.user.empty", b""),
    ];
    vec![
        Member::file("ping", "x").mode(0o755).owner(5, 6).pax(&[capability]),
        Member::file("setuid", "x").mode(0o4755).owner(5, 6).pax(&[capability, user[0]]),
        Member::file("user", "x").pax(&user),
        Member::directory("directory").pax(&user),
        Member::file("list", "x").mode(0o750).pax(&[list]),
        Member::directory("listed").mode(0o750).pax(&[list, default]),
        Member::file("listed/heir", "x").mode(0o600),
        Member::fifo("fifo").mode(0o750).pax(&[list]),
        Member::character("device", 1, 3).mode(0o750).pax(&[list]),
        // What is replaced takes its attributes along.
        Member::file("replaced", "x").pax(&user),
        Member::file("replaced", "y"),
    ]
}

fn foreign_attributes() -> Vec<Member> {
    let one = |path: &str, name: &str| Member::file(path, "x").pax(&[(&format!("SCHILY.xattr.{name}"), b"y")]);
    vec![
        one("selinux", "security.selinux"),
        one("other", "security.other"),
        one("trusted", "trusted.other"),
        one("opaque", "trusted.overlay.opaque"),
        one("user-overlay", "user.overlay.opaque"),
        Member::directory("d").pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")]),
        Member::file("old-flags", "x").pax(&[("LIBARCHIVE.xattr.user.a", b"eQ=="), ("SCHILY.fflags", b"nodump")]),
    ]
}

fn attributes_of_links() -> Vec<Member> {
    vec![
        Member::symlink("link", "x").pax(&[("SCHILY.xattr.user.of-a-link", b"y")]),
        Member::fifo("fifo").pax(&[("SCHILY.xattr.user.of-a-fifo", b"y")]),
    ]
}

fn headers_of_headers() -> Vec<Member> {
    let pax = |records: &[(&str, &[u8])], member: Member| member.pax(records);
    let long = Member::new(b'L', "././@LongLink").form(Form::Gnu).content("from-GNU\0");
    vec![
        // Only the last set of records counts, and all of it.
        Member::file("header", "x").after(&pax(&[("path", b"first"), ("uid", b"7")], Member::new(b'x', "x"))),
        Member::file("emptied", "x").owner(3, 3).pax(&[("path", b""), ("uid", b""), ("mtime", b"")]),
        Member::file("header", "x").pax(&[("path", b"from-PAX")]).after(&long),
        Member::file("comment", "x").pax(&[("comment", b"nothing"), ("VENDOR.key", b"1"), ("hdrcharset", b"BINARY")]),
        Member::file("twice-said", "x").pax(&[("uid", b"1"), ("uid", b"2")]),
    ]
}

fn global_headers() -> Vec<Member> {
    let global =
        Member::new(b'g', "pax_global_header").content("52 comment=0123456789012345678901234567890123456789\n");
    vec![global.clone(), Member::file("a", "x"), global.content("15 path=global\n"), Member::file("b", "y")]
}

fn old_headers() -> Vec<Member> {
    vec![
        Member::new(0, "old/").form(Form::Old).mode(0o755),
        Member::new(0, "old/file").form(Form::Old).content("x"),
        Member::symlink("old/link", "file").form(Form::Old),
        Member::hard_link("old/hard", "old/file").form(Form::Old),
        Member::new(b'0', "old/slash/").content("x"),
    ]
}

fn gnu_sparse_files() -> Vec<Member> {
    let many: Vec<(u64, u64)> = (0..60).map(|n| (n * 10_000, 100)).collect();
    let content: Vec<u8> = (0..6000_u32).map(|n| n as u8).collect();
    vec![
        Member::sparse("gnu", 5000, &[(0, 3), (4096, 4), (5000, 0)], "aaabbbb"),
        Member::sparse("gnu-many", 1_000_000, &many, content),
        Member::sparse("gnu-hole", 1 << 20, &[(1 << 20, 0)], ""),
        Member::file("after", "x"),
    ]
}

fn pax_sparse_files() -> Vec<Member> {
    let named: [(&str, &[u8]); 3] =
        [("GNU.sparse.name", b"pax"), ("GNU.sparse.size", b"5000"), ("GNU.sparse.numblocks", b"2")];
    let said = |name: &'static str, more: &[(&'static str, &'static [u8])]| {
        let mut records = named.to_vec();
        records[0].1 = name.as_bytes();
        records.extend(more);
        Member::file("stand-in", "aaabbbb").pax(&records)
    };
    let mut in_content = b"3\n0\n3\n4096\n4\n5000\n0\n".to_vec();
    in_content.resize(512, 0);
    in_content.extend(b"aaabbbb");
    vec![
        said(
            "pax-0.0",
            &[
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"4096"),
                ("GNU.sparse.numbytes", b"4"),
            ],
        ),
        said("pax-0.1", &[("GNU.sparse.map", b"0,3,4096,4")]),
        Member::file("stand-in", in_content).pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"pax-1.0"),
            ("GNU.sparse.realsize", b"5000"),
        ]),
        Member::file("after", "x"),
    ]
}

fn twice() -> Vec<Member> {
    vec![
        Member::directory("d/").mode(0o700).owner(1, 1).modified(5),
        Member::file("d/x", "1").owner(1, 1),
        Member::hard_link("d/of-x", "d/x").owner(1, 1),
        Member::file("d/x", "2").mode(0o600),
        Member::directory("d/").mode(0o755).owner(2, 2).modified(9),
        Member::file("d/type", "1"),
        Member::directory("d/type/"),
        Member::file("d/type/inside", "2"),
        Member::symlink("d/type", "x"),
        Member::character("d/type", 1, 3),
        Member::fifo("d/type"),
        Member::file("d/type", "last").mode(0o640).owner(8, 9).modified(77),
    ]
}

fn changing_types() -> Vec<Vec<Member>> {
    let names = ["a", "b", "c", "d", "e"];
    let member = |kind: usize, name: &str| match kind % names.len() {
        0 => vec![Member::file(name, "file").owner(1, 2)],
        1 => vec![Member::directory(name), Member::file(format!("{name}/inside-{kind}"), "x")],
        2 => vec![Member::symlink(name, "elsewhere")],
        3 => vec![Member::character(name, 1, 7)],
        _ => vec![Member::fifo(name)],
    };
    let layer = |n: usize| names.iter().enumerate().flat_map(|(at, name)| member(at + n, name)).collect();
    (0..=names.len()).map(layer).collect()
}

fn through_links() -> Vec<Vec<Member>> {
    let base = vec![
        Member::directory("usr/"),
        Member::directory("usr/lib/").mode(0o711).owner(7, 7).modified(70),
        Member::file("usr/lib/base", "x"),
        Member::symlink("lib", "usr/lib"),
        Member::directory("run/"),
        Member::directory("var/"),
        Member::symlink("var/run", "/run"),
        Member::symlink("var/chain", "run/../../lib"),
        Member::file("gone", "x"),
    ];
    let top = vec![
        Member::file("lib/one", "1"),
        Member::file("var/run/two", "2"),
        Member::file("lib/.wh.base", ""),
        Member::hard_link("hard", "lib/one"),
    ];
    vec![base, top]
}

fn directory_over_link() -> Vec<Vec<Member>> {
    let base = vec![Member::directory("real/"), Member::file("real/f", "x"), Member::symlink("link", "real")];
    vec![base, vec![Member::directory("link/"), Member::file("link/g", "y")]]
}

fn deleted() -> Vec<Vec<Member>> {
    let base = vec![
        Member::file("file", "x"),
        Member::directory("tree/"),
        Member::directory("tree/deep/"),
        Member::file("tree/deep/f", "x"),
        Member::symlink("link", "file"),
        Member::character("device", 1, 3),
        Member::directory("kept/").modified(44),
        Member::file("kept/gone", "x"),
        Member::file("kept/stays", "x"),
        Member::hard_link("kept/second", "kept/stays"),
        Member::hard_link("kept/third", "kept/stays"),
    ];
    let top = vec![
        Member::file(".wh.file", ""),
        Member::file(".wh.tree", ""),
        Member::file(".wh.link", ""),
        Member::file(".wh.device", ""),
        Member::file("kept/.wh.gone", ""),
        Member::file("kept/.wh.third", ""),
    ];
    vec![base, top, vec![Member::file("new", "x")]]
}

fn made_again() -> Vec<Vec<Member>> {
    let base = vec![
        Member::file("file", "old"),
        Member::directory("dir/").modified(33),
        Member::file("dir/old", "x"),
        Member::directory("to-file/"),
        Member::file("to-file/old", "x"),
        Member::file("to-dir", "x"),
        Member::directory("implicit/"),
        Member::file("implicit/old", "x"),
    ];
    let deletes = vec![
        Member::file(".wh.file", ""),
        Member::file("file", "new"),
        Member::file(".wh.dir", ""),
        Member::directory("dir/").mode(0o700),
        Member::file("dir/new", "x"),
        Member::file(".wh.to-file", ""),
        Member::file("to-file", "x"),
        Member::file(".wh.to-dir", ""),
        Member::directory("to-dir/"),
        Member::file("to-dir/new", "x"),
        Member::file(".wh.implicit", ""),
        Member::file("implicit/new", "x"),
    ];
    vec![base, deletes]
}

fn deleted_after() -> Vec<Vec<Member>> {
    let base = vec![Member::file("file", "old"), Member::directory("dir/"), Member::file("dir/old", "x")];
    let top = vec![
        Member::file("file", "new"),
        Member::file(".wh.file", ""),
        Member::directory("dir/").mode(0o711),
        Member::file("dir/new", "x"),
        Member::file(".wh.dir", ""),
    ];
    vec![base, top]
}

fn whiteouts_of_nothing() -> Vec<Member> {
    vec![Member::file(".wh.never", ""), Member::directory("d/"), Member::file("d/.wh.never", "")]
}

fn odd_whiteouts() -> Vec<Vec<Member>> {
    let base = ["a", "b", "c", "d", "e"].map(|name| Member::file(name, "x")).to_vec();
    let top = vec![
        Member::directory(".wh.a"),
        Member::symlink(".wh.b", "x"),
        Member::hard_link(".wh.c", "e"),
        Member::character(".wh.d", 1, 3),
    ];
    vec![base, top]
}

fn opaque() -> Vec<Vec<Member>> {
    let base = vec![
        Member::directory("before/"),
        Member::file("before/old", "x"),
        Member::directory("after/"),
        Member::file("after/old", "x"),
        Member::directory("after/deep/"),
        Member::file("after/deep/old", "x"),
        Member::directory("alone/").mode(0o750).owner(4, 5),
        Member::file("alone/old", "x"),
        Member::directory("with/"),
        Member::file("with/old", "x"),
    ];
    let middle = vec![
        Member::directory("before/"),
        Member::file("before/.wh..wh..opq", ""),
        Member::file("before/new", "1"),
        Member::directory("after/"),
        Member::file("after/new", "2"),
        Member::directory("after/deep/"),
        Member::file("after/deep/new", "3"),
        Member::file("after/.wh..wh..opq", ""),
        Member::file("alone/.wh..wh..opq", ""),
        Member::directory("with/"),
        Member::file("with/.wh.old", ""),
        Member::file("with/.wh..wh..opq", ""),
        Member::file("fresh/.wh..wh..opq", ""),
    ];
    vec![base, middle, vec![Member::directory("before/").mode(0o700), Member::file("before/newer", "x")]]
}

fn opaque_root() -> Vec<Vec<Member>> {
    let base = vec![Member::file("a", "x"), Member::directory("d/"), Member::file("d/old", "x")];
    vec![base, vec![Member::file(".wh..wh..opq", ""), Member::directory("d/"), Member::file("d/new", "x")]]
}

fn foreign_names() -> Vec<Member> {
    vec![
        Member::directory(".wh..wh.plnk/").mode(0o700),
        Member::file(".wh..wh.plnk/1.2", "x"),
        Member::file(".wh..wh.aufs", ""),
        Member::directory(".wh..wh.orph/").mode(0o700),
        Member::file("stays", "x"),
    ]
}

fn hard_links() -> Vec<Member> {
    vec![
        Member::file("f", "content").owner(1, 2).mode(0o4711),
        Member::hard_link("g", "f").owner(1, 2).mode(0o4711),
        Member::hard_link("h", "g").owner(1, 2).mode(0o4711),
        Member::directory("d/"),
        Member::hard_link("d/i", "./f").owner(1, 2).mode(0o4711),
        Member::symlink("s", "f"),
        Member::hard_link("of-s", "s").mode(0o777),
        Member::fifo("p"),
        Member::hard_link("of-p", "p"),
        Member::character("c", 1, 3),
        Member::hard_link("of-c", "c"),
        // Some tell the size of what they link to.
        Member::hard_link("sized", "f").owner(1, 2).mode(0o4711).size(7),
        Member::file("after", "x"),
    ]
}

fn lower_hard_links() -> Vec<Vec<Member>> {
    let base = vec![
        Member::file("file", "content").owner(5, 6).mode(0o4755).modified(50),
        Member::file("ping", "x").mode(0o755).pax(&[("SCHILY.xattr.security.capability", &CAPABILITY)]),
        Member::symlink("link", "file").modified(51),
        Member::character("device", 1, 5).modified(52),
        Member::fifo("fifo").modified(53),
    ];
    let top = vec![
        Member::hard_link("of-file", "file").owner(5, 6).mode(0o4755).modified(50),
        Member::hard_link("of-link", "link").modified(51),
        Member::hard_link("of-device", "device").modified(52),
        Member::hard_link("of-fifo", "fifo").modified(53),
    ];
    vec![base, top]
}

fn odd_hard_links() -> Vec<Member> {
    vec![
        Member::file("f", "x").mode(0o600).owner(1, 1).modified(10),
        Member::hard_link("g", "f").mode(0o777).owner(2, 2).modified(20),
    ]
}

fn lower_parents() -> Vec<Vec<Member>> {
    let base = vec![
        Member::directory("a/").mode(0o2711).owner(1, 2).modified(100).pax(&[("SCHILY.xattr.user.mine", b"1")]),
        Member::directory("a/b/").mode(0o700).owner(3, 4).modified(200),
        Member::file("a/b/old", "x"),
    ];
    vec![base, vec![Member::file("a/b/new", "x")], vec![Member::file("a/b/newer", "x"), Member::file("a/top", "x")]]
}

fn deep() -> Vec<Member> {
    let mut members: Vec<Member> =
        (1..=100).map(|depth| Member::directory("d/".repeat(depth)).form(Form::Gnu)).collect();
    members.push(Member::file(format!("{}f", "d/".repeat(100)), "x").form(Form::Gnu));
    members
}

/// The same layers however they are packed.
fn compressed() -> Vec<Case> {
    let tar = archive(&every_type());
    let top = archive(&[Member::directory("d/"), Member::file("d/.wh.empty", ""), Member::file("d/new", "x")]);
    let both = |name, media_type, pack: &dyn Fn(&[u8]) -> Vec<u8>| Case {
        name,
        layers: [&tar, &top].map(|tar| packed(tar.clone(), media_type, pack)).into(),
    };
    let padded = |tar: &[u8]| [tar, &[0; 9000][..]].concat();
    let mut cases = vec![
        both("gzip", GZIP, &gzip),
        both("gzip in members", GZIP, &|tar| {
            let middle = tar.len() / 2;
            [gzip(&tar[..middle]), gzip(b""), gzip(&tar[middle..])].concat()
        }),
        both("zstd", ZSTD, &zstd),
        both("zstd in frames, with others to skip", ZSTD, &|tar| {
            let middle = tar.len() / 2;
            [skippable(b"first"), zstd(&tar[..middle]), skippable(b""), zstd(&tar[middle..])].concat()
        }),
        both("zstd:chunked", ZSTD, &zstd_chunked),
    ];
    cases.push(Case { name: "eStargz", layers: vec![estargz(&every_type()), estargz(&[Member::file("d/new", "x")])] });
    cases.push(Case { name: "padding behind its end", layers: vec![packed(padded(&tar), GZIP, gzip)] });
    cases.push(Case { name: "a layer of nothing", layers: vec![packed(vec![0; 1024], GZIP, gzip)] });
    cases
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A zstd frame that readers skip.
fn skippable(content: &[u8]) -> Vec<u8> {
    [&[0x50, 0x2a, 0x4d, 0x18], &(content.len() as u32).to_le_bytes()[..], content].concat()
}

/// A frame for each piece, and behind them what lets others fetch pieces alone: a table of contents and a footer, both
/// in frames that readers skip.
fn zstd_chunked(tar: &[u8]) -> Vec<u8> {
    let mut blob: Vec<u8> = tar.chunks(4096).flat_map(zstd).collect();
    let table = zstd(br#"{"version":1,"entries":[]}"#);
    let (at, length) = (blob.len() as u64 + 8, table.len() as u64);
    blob.extend(skippable(&table));
    let numbers = [at, length, 26, 1, 0, 0, 0].map(u64::to_le_bytes).concat();
    blob.extend(skippable(&[&numbers, &b"GNUlInUx"[..]].concat()));
    blob
}

/// A gzip member for each entry, then the table of contents as a last entry, then an empty member that tells in its
/// extra field where the table is.
fn estargz(members: &[Member]) -> Packed {
    let mut members = members.to_vec();
    members.push(Member::file(".no.prefetch.landmark", [0xf]));
    let mut blob: Vec<u8> = members.iter().flat_map(|member| gzip(&member.bytes())).collect();
    let at = blob.len();
    members.push(Member::file("stargz.index.json", br#"{"version":1,"entries":[]}"#));
    let tar = archive(&members);
    let table = members.last().map(Member::bytes).unwrap_or_default().len() + 1024;
    blob.extend(gzip(&tar[tar.len() - table..]));
    // RFC 1952: a header with an extra field of 26 bytes, an empty stored block, the checksum and the length of
    // nothing.
    blob.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0]);
    blob.extend(format!("{at:016x}STARGZ").bytes());
    blob.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    Packed { tar, blob, media_type: GZIP }
}
