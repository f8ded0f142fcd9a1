//! What attackers make: nothing leaves the layer, nothing takes more than it may.

use super::*;

#[test]
#[ignore = "needs root: sets owners"]
fn no_entry_reaches_outside_the_layer() {
    is_root();
    for (bad, layer) in [
        ("../escaped", Layer::new().file("../escaped", "x")),
        ("a/../../../escaped", Layer::new().file("a/../../../escaped", "x")),
        ("/../escaped", Layer::new().symlink("/../escaped", "x")),
        ("../layer-0/d", Layer::new().directory("../layer-0/d", 0o777)),
        ("out/escaped", Layer::new().symlink("out", "../..").file("out/escaped", "x")),
        ("b/escaped", Layer::new().symlink("a", "..").symlink("b", "a/..").file("b/escaped", "x")),
        ("d/escaped", Layer::new().directory("d/", 0o755).symlink("d", "..").file("d/escaped", "x")),
        ("out/.wh.secret", Layer::new().symlink("out", "..").file("out/.wh.secret", "")),
        ("../.wh.secret", Layer::new().file("../.wh.secret", "")),
        ("../.wh..wh..opq", Layer::new().file("../.wh..wh..opq", "")),
    ] {
        let mut stack = Stack::new();
        let fault = stack.add(layer);
        assert!(matches!(&fault, Err(Fault::Entry { path, .. }) if path == bad), "{bad}: {fault:?}");
        stack.is_alone();
    }
    // Links that lead nowhere else are followed as a container would follow them.
    for (landed, layer) in [
        ("abs", Layer::new().file("/abs", "x")),
        ("through", Layer::new().symlink("root", "/").file("root/through", "x")),
        ("d/f", Layer::new().directory("d/", 0o755).symlink("d/l", "../d/../d").file("d/l/f", "x")),
        ("etc/f", Layer::new().directory("etc/", 0o755).symlink("l", "/etc").file("l/f", "x")),
    ] {
        let mut stack = Stack::new();
        stack.add(layer).unwrap_or_else(|fault| panic!("{landed}: {fault}"));
        assert!(stack.top(landed).exists(), "{landed}");
        stack.is_alone();
    }
}

#[test]
#[ignore = "needs root: sets owners"]
fn a_hard_link_reaches_only_what_the_image_has() {
    is_root();
    for (name, layer) in [
        ("host file", Layer::new().hard_link("l", "/etc/shadow")),
        ("dots", Layer::new().hard_link("l", "../secret")),
        ("through a link", Layer::new().symlink("s", "../..").hard_link("l", "s/secret")),
        ("directory", Layer::new().directory("d/", 0o755).hard_link("l", "d")),
        ("itself", Layer::new().file("l", "x").hard_link("l", "./l")),
        ("root", Layer::new().hard_link("l", "/")),
        ("what is deleted", Layer::new().file("x", "").hard_link("l", "x/../.wh.x")),
    ] {
        let mut stack = Stack::new();
        let fault = stack.add(layer);
        assert!(matches!(&fault, Err(Fault::Entry { path, .. }) if path == "l"), "{name}: {fault:?}");
        stack.is_alone();
    }
    let mut stack = Stack::new();
    assert!(stack.add(Layer::new().file("d/f", "x").hard_link("d", "d/f")).is_err(), "to a file below itself");
    let mut stack = Stack::new();
    stack.add(Layer::new().symlink("s", "/etc/shadow").hard_link("l", "s")).unwrap();
    assert!(stack.top("l").symlink_metadata().unwrap().is_symlink(), "a link to a link is the link");
}

#[test]
#[ignore = "needs root: sets owners"]
fn absurd_entries_are_refused_by_name() {
    is_root();
    let deep = "d/".repeat(45);
    let (name, path) = ("n".repeat(256), "n/".repeat(2500));
    let mut members = Vec::from(
        [("whiteout of nothing", ".wh."), ("whiteout of dot", "a/.wh.."), ("whiteout of dots", "a/.wh...")]
            .map(|(what, path)| (what, path, vec![Member::file(path, "")])),
    );
    members.extend([
        ("root as a file", "/", vec![Member::file("/", "x")]),
        ("root as a link", "./", vec![Member::symlink("./", "x")]),
        ("file as a directory", "f/g", vec![Member::file("f", "x"), Member::file("f/g", "x")]),
        (
            "links in a circle",
            "a/f",
            vec![Member::symlink("a", "b"), Member::symlink("b", "a"), Member::file("a/f", "x")],
        ),
        ("link to nothing", "a", vec![Member::symlink("a", "")]),
        ("too deep", "d/", vec![Member::file(&deep, "x")]),
        (
            "too deep by a link",
            "l/d/",
            vec![
                Member::directory("d/".repeat(30)),
                Member::symlink("l", "d/".repeat(30)),
                Member::file(format!("l/{}f", "d/".repeat(15)), "x"),
            ],
        ),
        ("a long name", "nnn", vec![Member::file("x", "").pax(&[("path", name.as_bytes())])]),
        ("a long path", "n/n", vec![Member::file("x", "").pax(&[("path", path.as_bytes())])]),
        ("a NUL", "a\0b", vec![Member::file("x", "").pax(&[("path", b"a\0b")])]),
        ("a whiteout as a device", "w", vec![Member::character("w", 0, 0)]),
        ("a device number that is cut to that of a whiteout", "w", vec![Member::character("w", 4096, 1 << 20)]),
        ("a device number that none has", "b", vec![Member::block("b", 8, u64::from(u32::MAX))]),
        ("a negative device number", "b", vec![Member::block("b", 8, 0).patch(337, [0xff; 8])]),
        ("a type that is none", "t", vec![Member::new(b'V', "t")]),
        ("a mode that is none", "m", vec![Member::file("m", "x").patch(100, b"rwxr-x\0")]),
        ("a time that is none", "m", vec![Member::file("m", "x").patch(136, b"yesterday\0")]),
        ("an owner that is none", "m", vec![Member::file("m", "x").owner(1 << 33, 0)]),
        ("a size without end", "s", vec![Member::file("s", "").pax(&[("size", b"18446744073709551615")])]),
    ]);
    for (what, bad, members) in members {
        let mut stack = Stack::new();
        stack.limits.depth = 40;
        let fault = stack.add_archive(&archive(&members));
        assert!(matches!(&fault, Err(Fault::Entry { path, .. }) if path.starts_with(bad)), "{what}: {fault:?}");
        stack.is_alone();
    }
}

#[test]
#[ignore = "needs root: sets owners"]
fn what_is_over_a_limit_is_refused_before_it_is_made() {
    is_root();
    let huge = (1_u64 << 40).to_string();
    let few = |n: usize| (0..n).map(|n| Member::file(n.to_string(), "")).collect::<Vec<_>>();
    let holes: [(&str, &[u8]); 2] = [("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", huge.as_bytes())];
    for (what, bad, members) in [
        ("entries", "9", few(11)),
        ("headers that describe headers", "before", {
            let described = (0..12).fold(Member::file("x", ""), |member, _| member.pax(&[("comment", b"x")]));
            vec![Member::file("before", ""), described]
        }),
        ("directories that only a path mentions", "p/p", vec![Member::file(format!("{}f", "p/".repeat(12)), "")]),
        ("a size", "large", vec![Member::file("large", "").size(1 << 40)]),
        ("a size in records", "large", vec![Member::file("large", "").pax(&[("size", huge.as_bytes())])]),
        ("holes", "large", vec![Member::file("large", "x").pax(&holes)]),
        ("GNU's holes", "large", vec![Member::sparse("large", 1 << 32, &[(0, 1)], "x")]),
    ] {
        let mut stack = Stack::new();
        (stack.limits.layer_entries, stack.limits.layer_bytes) = (10, 1 << 20);
        let fault = stack.add_archive(&archive(&members));
        let named = matches!(&fault, Err(Fault::Budget { at, .. }) if at.contains(&format!(" entry \"{bad}")));
        assert!(named, "{what}: {fault:?}");
    }
    // Bytes that no layer holds: a large file below, brought up by name after name.
    let mut stack = Stack::new();
    stack.limits.layer_bytes = 1 << 20;
    let base = ["a", "b", "c"].map(|name| Member::file(name, vec![1; 400 << 10]));
    stack.limits.layer_bytes = 2 << 20;
    stack.add_archive(&archive(&base)).unwrap();
    stack.limits.layer_bytes = 1 << 20;
    let links = ["a", "b", "c"].map(|name| Member::hard_link(format!("l{name}"), name));
    let fault = stack.add_archive(&archive(&links));
    assert!(matches!(&fault, Err(Fault::Budget { at, .. }) if at == " in entry \"c\""), "{fault:?}");
}

#[test]
#[ignore = "needs root: makes whiteouts"]
fn a_root_that_is_hidden_a_thousand_times_costs_as_much_as_once() {
    let mut stack = Stack::new();
    let names = |layer: Layer| (0..2000).fold(layer, |layer, n| layer.file(&format!("file-{n}"), ""));
    stack.add(names(Layer::new())).unwrap();
    let marked = (0..10_000).fold(Layer::new(), |layer, _| layer.file(".wh..wh..opq", ""));
    let begun = Instant::now();
    // What comes in the place of a mark hides what it hid.
    stack.add(marked.directory("file-7", 0o755).file("file-8", "own").file(".wh..wh..opq", "")).unwrap();
    // Each looks at every name below, twice: it would be a minute.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let layer = &stack.layers[1];
    assert_eq!(fs::read_dir(layer).unwrap().count(), 2000);
    let device = |name: &str| fs::symlink_metadata(layer.join(name)).unwrap().file_type().is_char_device();
    assert!(device("file-0") && !device("file-7") && !device("file-8"));
    let hidden = fs::File::open(layer.join("file-7")).unwrap();
    let mark = xattr::get(hidden.as_fd(), attributes::OPAQUE_XATTR).unwrap();
    assert_eq!(mark.as_deref(), Some(&b"y"[..]));
}

#[test]
#[ignore = "needs root: unpacks a layer"]
fn what_is_looked_up_below_is_bounded() {
    let mut stack = Stack::new();
    stack.add(Layer::new().directory("a", 0o755).directory("a/b", 0o755)).unwrap();
    let archive = |whiteouts: usize| {
        let all = (0..whiteouts).fold(Layer::new(), |layer, n| layer.file(&format!("a/b/.wh.{n}"), ""));
        all.0.into_inner().unwrap()
    };
    let unpacked = |whiteouts: usize| {
        let path = stack.root.path().join(format!("bounded-{whiteouts}"));
        fs::create_dir(&path).unwrap();
        let share = Arc::new(crate::budget::Budget::of(&stack.limits).share());
        let lowers = Lowers::of(&stack.layers).within(100);
        unpack(&archive(whiteouts)[..], Tree::open_on(&path, lowers, &stack.limits, share).unwrap())
    };
    // One for `a`, two for `a/b`, three for each name in it.
    unpacked(32).unwrap();
    let fault = unpacked(33).unwrap_err();
    assert!(matches!(fault, Fault::Budget { what: "look-ups in layers below", .. }), "{fault:?}");
}
