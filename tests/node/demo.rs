//! `coracled demo --keep`, and the one line that ends it.

use std::{
    path::Path,
    process::{Command, Output},
};

use testkit::programs;

fn shell(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

#[ignore = "needs root: runs the demo"]
#[test]
fn a_kept_demo_goes_whole_by_the_line_that_it_prints() {
    let kept = Command::new(programs().join("coracled")).args(["demo", "--keep"]).output().unwrap();
    let told = String::from_utf8_lossy(&kept.stdout);
    assert!(kept.status.success(), "{told}");
    let (_, line) = told.split_once("end it all:").expect("it says how to end it");
    let line = line.lines().next().unwrap().trim();
    let home = Path::new(line.split_whitespace().last().unwrap());
    assert!(home.join("coracle.sock").exists(), "{} is left running", home.display());

    let ended = shell(line);
    // It looks at the host itself: mounts, namespaces, links, cgroups, processes, files.
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    assert!(!home.exists());
    assert!(!shell(line).status.success(), "there is no such demo any more");
}
