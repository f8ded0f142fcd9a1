//! Images from registries, as they come.

use testkit::{Access, TinyRegistry, Trouble};

use crate::command::{Coracle, image, told};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_pull_tells_of_each_layer_and_what_came_of_it() {
    let (coracle, registry) = (Coracle::start(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let name = format!("{}/x:1", registry.host());
    let output = coracle.command(&["pull", &name]).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let result = |status: &str| format!("Digest: {}\nStatus: {status} {name}\n{name}\n", built.digest());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), result("Downloaded newer image for"));
    let progress = String::from_utf8(output.stderr).unwrap();
    for layer in &built.layers {
        let line = format!("{}: Pull complete\n", &testkit::digest_of(layer)[7..19]);
        assert!(progress.contains(&line), "{line} is not in {progress}");
    }
    assert_eq!(coracle.ok(&["pull", &name]), result("Image is up to date for"));
    registry.push("x", "2", &image("two"));
    let second = coracle.command(&["pull", &format!("{}/x:2", registry.host())]).output().unwrap();
    assert!(String::from_utf8(second.stderr).unwrap().contains(": Already exists\n"), "the base is here");
    let quiet = coracle.command(&["pull", "-q", &name]).output().unwrap();
    assert_eq!((String::from_utf8(quiet.stdout).unwrap(), quiet.stderr), (format!("{name}\n"), Vec::new()));

    // What is listed says where it came from.
    let table = coracle.ok(&["images", "--digests", &name]);
    assert!(table.contains(&built.digest()), "{table}");
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_pull_that_is_refused_says_which_host_did_and_no_terminal_obeys_it() {
    let (coracle, registry) = (Coracle::start(), TinyRegistry::http(Access::Open));
    let name = format!("{}/x:1", registry.host());
    let (code, told) = coracle.fails(&["pull", &name]);
    assert_eq!(code, 1);
    assert!(told.contains(&registry.host()) && told.contains("not found"), "{told}");
    registry.trouble("/v2/", Trouble::Status(418, "\u{1b}[2J tea \u{7}".to_owned()), 9);
    let (_, told) = coracle.fails(&["pull", &name]);
    assert!(told.contains("tea") && !told.contains(['\u{1b}', '\u{7}']), "{told:?}");
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_password_comes_from_standard_input_and_goes_into_no_log() {
    let access = Access::Basic { user: "ann".to_owned(), password: "open sesame".to_owned() };
    let (coracle, registry) = (Coracle::start(), TinyRegistry::http(access));
    registry.push("x", "1", &image("one"));
    let name = format!("{}/x:1", registry.host());
    assert_eq!(coracle.fails(&["pull", &name]).0, 1);
    let arguments = ["pull", "--username", "ann", "--password-stdin", &name];
    let wrong = coracle.fed(&arguments, b"hunter2\n");
    assert_eq!(wrong.status.code(), Some(1), "{}", told(&wrong));
    let right = coracle.fed(&arguments, b"open sesame\n");
    assert!(right.status.success(), "{}", told(&right));
    let log = coracle.node.log();
    assert!(log.contains("PullImage") && !log.contains("sesame") && !log.contains("hunter2"), "{log}");
    coracle.finish().await;
}
