//! What a template becomes, as Go's text/template has it, and what is refused.

use proptest::prelude::*;

use super::*;

fn nets(ranges: &[&str]) -> Vec<IpNet> {
    ranges.iter().map(|range| range.parse().unwrap()).collect()
}

const BOTH: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

/// What containerd's documentation shows.
const OF_CONTAINERD: &str = r#"{
  "name": "containerd-net",
  "cniVersion": "1.0.0",
  "plugins": [{
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "ipMasq": true,
    "ipam": {
      "type": "host-local",
      "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
      "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
    }
  }]
}
"#;

#[test]
fn a_template_of_containerd_becomes_the_list_that_it_describes() {
    for (ranges, subnets, routes) in [
        (
            &BOTH[..],
            r#"[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]"#,
            r#"{"dst": "0.0.0.0/0"}, {"dst": "::/0"}"#,
        ),
        (&BOTH[..1], r#"[{"subnet": "10.1.0.0/24"}]"#, r#"{"dst": "0.0.0.0/0"}"#),
        (&BOTH[1..], r#"[{"subnet": "fd00:1::/64"}]"#, r#"{"dst": "::/0"}"#),
    ] {
        let made = render(OF_CONTAINERD, &nets(ranges)).unwrap();
        assert!(made.contains(&format!("\"ranges\": [{subnets}],")), "{made}");
        assert!(made.contains(&format!("\"routes\": [{routes}]\n")), "{made}");
        cni::Conflist::parse(made.as_bytes()).unwrap();
    }
}

#[test]
fn each_construct_becomes_what_go_makes_of_it() {
    for (template, made) in [
        ("", ""),
        ("no action: } }} { \"\"", "no action: } }} { \"\""),
        ("{{.PodCIDR}}", "10.1.0.0/24"),
        ("{{ .PodCIDR }}{{$.PodCIDR}}", "10.1.0.0/2410.1.0.0/24"),
        ("a \n\t{{- .PodCIDR -}} \r\n b", "a10.1.0.0/24b"),
        ("a {{- if .Routes}} b {{end -}} c", "a b c"),
        ("{{range .Routes}}<{{.}}>{{end}}", "<0.0.0.0/0><::/0>"),
        ("{{range $r := .Routes}}<{{$r}}>{{end}}", "<0.0.0.0/0><::/0>"),
        ("{{range $i, $r := .Routes}}{{$i}}={{$r}} {{end}}", "0=0.0.0.0/0 1=::/0 "),
        ("{{range $i,$r:=.Routes}}{{if $i}}, {{else}}first {{end}}{{$r}}{{end}}", "first 0.0.0.0/0, ::/0"),
        (
            "{{range .Routes}}{{range $.PodCIDRRanges}}{{.}} {{end}}{{end}}",
            "10.1.0.0/24 fd00:1::/64 10.1.0.0/24 fd00:1::/64 ",
        ),
        (
            "{{range $i, $a := .Routes}}{{range $a := $.Routes}}{{$i}}{{$a}} {{end}}{{$a}};{{end}}",
            "00.0.0.0/0 0::/0 0.0.0.0/0;10.0.0.0/0 1::/0 ::/0;",
        ),
        ("{{if .PodCIDR}}{{\n.PodCIDR\n}}{{end}}", "10.1.0.0/24"),
    ] {
        assert_eq!(render(template, &nets(&BOTH)).unwrap(), made, "{template}");
    }
    assert_eq!(
        render("{{range .Routes}}x{{else}}none{{end}}{{if .PodCIDR}}y{{else}}-{{.PodCIDR}}{{end}}", &[]).unwrap(),
        "none-"
    );
}

#[test]
fn what_is_not_known_is_named_with_its_place() {
    for (template, line, column, named) in [
        ("a\n  {{.Nope}}", 2, 3, ".Nope"),
        ("{{.PodCIDR | printf}}", 1, 1, "| printf"),
        ("{{printf \"%s\" .PodCIDR}}", 1, 1, "\\\"%s\\\""),
        ("{{len .Routes}}", 1, 1, "len .Routes"),
        ("{{template}}", 1, 1, "template"),
        ("{{with .PodCIDR}}{{end}}", 1, 1, "with .PodCIDR"),
        ("ü{{/* comment */}}", 1, 2, "/* comment */"),
        ("{{.PodCIDR", 1, 1, "no }}"),
        ("{{}}", 1, 1, "nothing"),
        ("{{-3}}", 1, 1, "-3"),
        ("{{if .PodCIDR}}", 1, 1, "if has no end"),
        ("{{range .Routes}}{{else}}", 1, 1, "range has no end"),
        ("{{end}}", 1, 1, "ends nothing"),
        ("x{{else}}", 1, 2, "ends nothing"),
        ("{{if .PodCIDR}}{{else}}\n{{else}}{{end}}", 2, 1, "second else"),
        ("{{if .PodCIDR}}{{else if .Routes}}{{end}}", 1, 16, "else if"),
        ("{{.Routes}}", 1, 1, "is a list"),
        ("{{range .PodCIDR}}{{end}}", 1, 1, "is not a list"),
        ("{{range $i, := .Routes}}{{end}}", 1, 1, "range"),
        ("{{range i := .Routes}}{{end}}", 1, 1, "$name"),
        ("{{range $x := .Routes}}{{end}}{{$x}}", 1, 31, "$x"),
        ("{{range $x := .Routes}}{{else}}{{$x}}{{end}}", 1, 32, "$x"),
        ("{{range .Routes}}{{.PodCIDR}}{{end}}", 1, 18, "put $ before"),
        ("{{$x}}", 1, 1, "$x"),
        ("{{.}}", 1, 1, "\".\""),
    ] {
        let flaw = render(template, &nets(&BOTH)).unwrap_err();
        assert_eq!((flaw.line, flaw.column), (line, column), "{template}: {flaw:?}");
        assert!(flaw.why.contains(named), "{template}: {flaw:?}");
    }
}

#[test]
fn a_hostile_template_is_bounded() {
    let deep = "{{range $.Routes}}".repeat(100_000);
    assert!(render(&deep, &nets(&BOTH)).unwrap_err().why.contains("deeper"));
    let wide = format!("{}{}{}", "{{range $.Routes}}".repeat(DEPTH_MAX), "x".repeat(1000), "{{end}}".repeat(DEPTH_MAX));
    assert!(render(&wide, &nets(&BOTH)).unwrap_err().why.contains("too long"));
}

proptest! {
    #[test]
    fn no_template_panics(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "{{", "}}", "{{- ", " -}}", "-", " ", "\n", "range", "if", "else", "end", "$i", "$", ",", ":=", ".",
                "ü",
                ".PodCIDR", ".PodCIDRRanges", "$.Routes", ".Routes", "text", "{{end}}", "{{range .Routes}}", "\"", "|",
                "{{range $i, $x := $.Routes}}", "{{if $i}}", "{{else}}", "{{$i}}", "{{.}}",
            ]),
            0..40,
        ),
        ranges in 0_usize..3,
    ) {
        let _ = render(&parts.concat(), &nets(&BOTH)[..ranges]);
    }

    #[test]
    fn text_without_actions_stays_as_it_is(text in "[^{]*") {
        prop_assert_eq!(render(&text, &nets(&BOTH)).unwrap(), text);
    }
}
