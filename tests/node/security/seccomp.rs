//! Filters of system calls.

use std::{fs, path::Path};

use api::cri::v1::{ContainerConfig, SecurityProfile, security_profile::ProfileType};
use serde_json::json;

use crate::scene::{Scene, probe, security, sleeper};

fn filtered(mut config: ContainerConfig, kind: ProfileType, file: &str) -> ContainerConfig {
    security(&mut config).seccomp = Some(SecurityProfile { profile_type: kind.into(), localhost_ref: file.into() });
    config
}

/// A profile that allows everything but changing modes.
fn no_chmod(dir: &Path) -> String {
    let path = dir.join("no-chmod.json");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO" }],
    });
    fs::write(&path, profile.to_string()).unwrap();
    path.display().to_string()
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_filter_is_there_if_and_only_if_it_was_asked_for() {
    let mut scene = Scene::new().await;
    let profile = no_chmod(scene.node.dir());
    for (config, mode) in [
        (probe("nothing-said", &["report"]), 0),
        (filtered(probe("unconfined", &["report"]), ProfileType::Unconfined, ""), 0),
        (filtered(probe("default", &["report"]), ProfileType::RuntimeDefault, ""), 2),
        (filtered(probe("localhost", &["report"]), ProfileType::Localhost, &profile), 2),
        (filtered(probe("prefixed", &["report"]), ProfileType::Localhost, &format!("localhost/{profile}")), 2),
    ] {
        let report = scene.report(&config).await;
        let name = &config.metadata.unwrap().name;
        assert_eq!(report["seccomp"], mode, "{name}");
        assert_eq!(report["seccomp_filters"], if mode == 0 { 0 } else { 1 }, "{name}");
    }
    // As clients of old spell it.
    let mut config = probe("old", &["report"]);
    #[allow(deprecated, reason = "old clients still send it")]
    {
        security(&mut config).seccomp_profile_path = "runtime/default".into();
    }
    assert_eq!(scene.report(&config).await["seccomp"], 2);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn what_a_profile_denies_is_denied_to_the_container_and_its_commands() {
    let mut scene = Scene::new().await;
    let profile = no_chmod(scene.node.dir());
    let config = filtered(probe("denied", &["chmod", "600", "/etc/group"]), ProfileType::Localhost, &profile);
    let ended = scene.outcome(&config).await;
    assert_eq!(ended.status.exit_code, 1);
    assert!(ended.stderr.contains("Operation not permitted"), "{}", ended.stderr);

    let id = scene.start(&filtered(sleeper("one"), ProfileType::Localhost, &profile)).await;
    let (code, why) = scene.attempt(&id, &["/probe", "chmod", "600", "/etc/group"]).await;
    assert!(code == 1 && why.contains("Operation not permitted"), "{why}");
    let free = scene.start(&filtered(sleeper("two"), ProfileType::RuntimeDefault, "")).await;
    scene.look(&free, &["/probe", "chmod", "600", "/etc/group"]).await;

    // The default one gives calls only together with the capability that they need.
    let mut config = filtered(sleeper("admin"), ProfileType::RuntimeDefault, "");
    security(&mut config).capabilities.get_or_insert_default().add_capabilities = vec!["SYS_ADMIN".into()];
    let admin = scene.start(&config).await;
    scene.look(&admin, &["/probe", "mount", "tmpfs", "/tmp"]).await;
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_profile_that_cannot_be_used_is_refused_at_creation() {
    let mut scene = Scene::new().await;
    let dir = scene.node.dir().to_owned();
    let write = |name: &str, content: &str| {
        fs::write(dir.join(name), content).unwrap();
        dir.join(name).display().to_string()
    };
    // Nobody will ever write into it: whoever opened it would wait for ever.
    let pipe = dir.join("pipe.json");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for (name, file) in [
        ("pipe", pipe.display().to_string()),
        ("absent", dir.join("absent.json").display().to_string()),
        ("relative", "profile.json".to_owned()),
        ("empty", String::new()),
        ("no-json", write("no-json", "SCMP_ACT_ALLOW")),
        ("no-action", write("no-action", "{\"syscalls\": []}")),
        ("unknown-action", write("unknown-action", "{\"defaultAction\": \"SCMP_ACT_MAYBE\"}")),
        ("directory", dir.display().to_string()),
    ] {
        let refused = scene.try_create(&filtered(sleeper(name), ProfileType::Localhost, &file)).await;
        assert!(refused.is_err(), "{name}");
        scene.create(&sleeper(name)).await;
    }
    scene.finish().await;
}
